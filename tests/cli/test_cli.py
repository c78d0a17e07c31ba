"""The command line, run as users run it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from PIL import Image

from intact.cli import main
from tests.calibrate.test_calibrate import IMAGES, cnn, text, tokens

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and data of every kind that the command line reads."""
    path = tmp_path_factory.mktemp("cli")
    (path / "cnn.onnx").write_bytes(ir.to_proto(cnn()).SerializeToString())
    (path / "text.onnx").write_bytes(ir.to_proto(text()).SerializeToString())
    np.save(path / "images.npy", IMAGES)
    np.savez(path / "labelled.npz", image=IMAGES, labels=RNG.integers(0, 2, 12))
    np.savez(path / "text.npz", **tokens([3, 5, 7, 2, 6, 4, 8, 9], 9))
    (path / "arrays").mkdir()
    for i in range(3):
        np.save(path / "arrays" / f"{i}.npy", IMAGES[4 * i : 4 * i + 4])
    (path / "pictures").mkdir()
    for i in range(10):
        pixels = RNG.integers(0, 256, (12, 10, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / "pictures" / f"{i}.png")
    assert main(quantize(path, "images.npy", "static.onnx")) == 0
    return path


def quantize(folder: Path, data: str, output: str, *more: str, model: str = "cnn") -> list[str]:
    return ["quantize", str(folder / f"{model}.onnx"), "--calibration", str(folder / data),
            "-o", str(folder / output), *more]  # fmt: skip


IMAGE_OPTIONS = ("--size", "8", "8", "--mean", "0.5", "0.5", "0.4", "--std", "0.2")


@pytest.mark.parametrize(
    ("data", "model", "options"),
    [
        ("images.npy", "cnn", ()),
        ("labelled.npz", "cnn", ("--method", "minmax", "--batch-size", "5")),
        ("arrays", "cnn", ("--activations", "int8")),
        ("pictures", "cnn", (*IMAGE_OPTIONS, "--channels", "bgr")),
        ("text.npz", "text", ("--override", "*=static", "--max-samples", "8")),
        ("images.npy", "cnn", ("--target", "onnxruntime-no-vnni", "--exclude", "Gemm")),
    ],
)
def test_quantize_from_every_kind_of_data(
    folder: Path, tmp_path: Path, data: str, model: str, options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = quantize(folder, data, str(tmp_path / "out.onnx"), *options, model=model)
    assert main(arguments) == 0
    assert "static" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "out.onnx")]) == 0
    assert "operators that multiply matrices" in capsys.readouterr().out


def test_dynamic_needs_no_data(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "dynamic.onnx"
    arguments = ["quantize", str(folder / "cnn.onnx"), "--mode", "dynamic", "-o", str(output)]
    assert main(arguments) == 0
    assert output.stat().st_size > 0


def test_compare_prints_a_table_and_checks_limits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["compare", str(folder / "cnn.onnx"), str(folder / "static.onnx"), "--data",
            str(folder / "labelled.npz"), "--repetitions", "2"]  # fmt: skip
    assert main(base) == 0
    table = capsys.readouterr().out
    assert "top1" in table and "static" in table
    assert main([*base, "--max-drop", "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][1]["name"] == "static"
    assert main([*base, "--min-speedup", "1000"]) == 1
    assert "speedup" in capsys.readouterr().err


def test_inspect_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder / "static.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["operators"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize", "none.onnx", "-o", "x.onnx"], "'none.onnx' does not exist"),
        (["quantize", "cnn.onnx", "-o", "x.onnx"], "needs calibration data"),
        (["quantize", "cnn.onnx", "-o", "none/x.onnx"], "'none' is not a directory"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--calibration", "none"], "'none' does not"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--calibration", "pictures"], "--size HEIGHT"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--calibration", "text.npz"], "no array 'image'"),
        (["quantize", "text.onnx", "-o", "x.onnx", "--calibration", "images.npy"], "one array"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--calibration", "cnn.onnx"], "not a readable"),
        (["quantize", "static.onnx", "-o", "x.onnx", "--mode", "dynamic"], "already quantized"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--mode", "dynamic", "--exclude", "Q"], "'Q'"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--dynamic-axis", "x"], "INPUT:AXIS=NAME"),
        (["quantize", "cnn.onnx", "-o", "x.onnx", "--plan", "images.npy"], "images.npy"),
        (["inspect", "images.npy"], "images.npy"),
        (["compare", "cnn.onnx", "static.onnx", "--data", "empty"], "holds no images"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir(exist_ok=True)
    before = sorted(folder.rglob("*"))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("intact: ") and captured.err.count("\n") == 1
    assert message in captured.err and not captured.out
    assert sorted(folder.rglob("*")) == before


def test_pickled_array_is_not_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(folder / "evil.npy", np.array([{"a": 1}], object), allow_pickle=True)
    assert main(quantize(folder, "evil.npy", "x.onnx")) == 2
    assert "evil.npy" in capsys.readouterr().err


def test_truncated_picture_is_named(folder: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "bad.png").write_bytes((folder / "pictures" / "0.png").read_bytes()[:100])
    arguments = ["quantize", str(folder / "cnn.onnx"), "--calibration", str(tmp_path),
                 "-o", str(tmp_path / "x.onnx"), *IMAGE_OPTIONS]  # fmt: skip
    assert main(arguments) == 2
    assert "bad.png" in capsys.readouterr().err


def test_help_answers_every_command() -> None:
    for command in ([], ["quantize"], ["compare"], ["inspect"], ["demo"]):
        shown = subprocess.run(
            [sys.executable, "-m", "intact.cli", *command, "--help"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert "usage: intact" in shown


def test_demo_trains_quantizes_and_compares(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    shown = subprocess.run(
        [sys.executable, "-m", "intact.cli", "demo", "-o", str(tmp_path)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "static" in shown.stdout and "dynamic" in shown.stdout
    assert shown.stderr == ""  # no progress bar where there is no terminal
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "digits.dynamic.int8.onnx",
        "digits.static.int8.onnx",
    ]
