"""The examples do what their docstrings say, from a file's reader's point of view: they run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

# torchvision's wheel needs help beside a CPU build of torch, which a user's environment does not.
RUN = "import sys, torchvision_cpu, runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_resnet18_example(shared: Path, mode: str) -> None:
    pytest.importorskip("torchvision_cpu")
    example = str(EXAMPLES / f"{mode}_resnet18.py")
    environment = {"PYTHONPATH": str(shared / "tools")}
    result = subprocess.run(
        [sys.executable, "-c", RUN, example],
        check=True, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert "21 of 21" in result.stdout
    assert "fresh process: <QuantizedModel" in result.stdout
