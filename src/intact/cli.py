"""The command line: a thin face on `intact.api`."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import intact
from intact.capture.onnx import capture
from intact.capture.signature import Signature
from intact.core.errors import InputError, IntactError, OutputPathError
from intact.core.files import write_atomically
from intact.core.native import native
from intact.core.ranges import METHODS
from intact.data import ImageOptions, batches
from intact.emit import TARGETS
from intact.evaluate.profile import bench, profile, profile_table, program_text, trace
from intact.run.select import RUNTIMES

__all__ = ["main"]

_DATA_HELP = (
    "an .npz file with an array for each input (and perhaps 'labels'), an .npy file for a model of "
    "one input, a directory of such files, or a directory of images with --size"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status: 0 done, 1 a limit of `compare` is not met, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _warn
            status: int = options.command(options)
        return status
    except IntactError as error:
        print(f"intact: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("intact: stopped", file=sys.stderr)
        return 130


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    print(f"intact: warning: {message}", file=sys.stderr)


def _quantize(options: argparse.Namespace) -> int:
    output = Path(options.output)
    if not output.parent.is_dir():
        raise OutputPathError(f"'{output.parent}' is not a directory; make it first")
    _, signature = capture(options.model, _axes(options))
    plan = intact.Plan.load(options.plan) if options.plan else None
    calibration = _data(options.calibration, options, signature) if options.calibration else None
    with _progress("calibrating", "samples") as progress:
        quantized = intact.quantize(
            options.model,
            mode=options.mode,
            calibration=calibration,
            dynamic_axes=_axes(options),
            method=options.method,
            activations=options.activations,
            include=options.include or None,
            exclude=options.exclude,
            overrides=dict(_pair(text) for text in options.override),
            target=options.target,
            mask=options.mask,
            max_samples=options.max_samples,
            plan=plan,
            threads=options.threads,
            progress=progress,
        )
    quantized.save(output)
    print(f"{output}: {quantized!r}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    _, signature = capture(options.model, _axes(options))
    first = next(iter(_labelled(options.data, options, signature)))
    labelled = "labels" in first
    with _progress("comparing", "batches") as progress:
        comparison = intact.compare(
            options.model,
            {_name(path, options.quantized): path for path in options.quantized},
            _labelled(options.data, options, signature),
            dynamic_axes=_axes(options),
            metric="top1" if labelled else None,
            repetitions=options.repetitions,
            threads=options.threads,
            progress=progress,
        )
    _show(comparison.to_dict() if options.json else str(comparison))
    faults = comparison.check(options.max_drop, options.min_speedup)
    for fault in faults:
        print(f"intact: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _inspect(options: argparse.Namespace) -> int:
    model = intact.load(options.model, options.threads, options.runtime)
    if options.program:
        print(program_text(model))
        return 0
    inspection = intact.inspect(model)
    _show(inspection.to_dict() if options.json else str(inspection))
    return 0


def _bench(options: argparse.Namespace) -> int:
    model = intact.load(options.model, options.threads, options.runtime)
    print(bench(model, options.batch_size, options.repetitions))
    if options.profile or options.trace:
        steps = profile(model, options.batch_size, options.repetitions)
        if options.profile:
            print(profile_table(steps))
        if options.trace:
            write_atomically(Path(options.trace), trace(steps).encode())
    return 0


def _demo(options: argparse.Namespace) -> int:
    from intact.demo import run

    with _progress("training and calibrating", "steps") as progress:
        report = run(Path(options.output) if options.output else None, progress)
    print(report)
    return 0


def _version() -> str:
    """The version, and what models will run on here."""
    if native is None:
        return f"intact {intact.__version__} (no native engine: models run on ONNX Runtime)"
    best, *others = native.instruction_sets()
    return f"intact {intact.__version__} (native engine: {best}; also {', '.join(others)})"


def _show(content: str | dict[str, Any]) -> None:
    print(content if isinstance(content, str) else json.dumps(content, indent=1))


def _data(path: str, options: argparse.Namespace, signature: Signature) -> Iterator[dict[str, Any]]:
    for feeds, _ in batches(Path(path), signature, options.batch_size, _images(options)):
        yield feeds


def _labelled(path: str, options: argparse.Namespace, signature: Signature) -> Iterator[Any]:
    """Batches, each with its labels behind it where there are any."""
    for feeds, labels in batches(Path(path), signature, options.batch_size, _images(options)):
        yield feeds if labels is None else {**feeds, "labels": labels}


def _images(options: argparse.Namespace) -> ImageOptions | None:
    if options.size is None:
        return None
    return ImageOptions(
        tuple(options.size),
        tuple(options.mean),
        tuple(options.std),
        options.layout,
        options.channels,
    )


def _axes(options: argparse.Namespace) -> dict[str, dict[int, str]]:
    """`input:axis=name` texts as dynamic axes."""
    axes: dict[str, dict[int, str]] = {}
    for text in options.dynamic_axis:
        name, _, rest = text.rpartition(":")
        axis, _, label = rest.partition("=")
        if not name or not label or not axis.lstrip("-").isdigit():
            raise InputError(f"--dynamic-axis '{text}' is not INPUT:AXIS=NAME, e.g. ids:1=length")
        axes.setdefault(name, {})[int(axis)] = label
    return axes


def _pair(text: str) -> tuple[str, Any]:
    name, _, mode = text.rpartition("=")
    if not name:
        raise InputError(f"--override '{text}' is not PATTERN=MODE, e.g. 'layer4.*=dynamic'")
    return name, mode


def _name(path: str, paths: Sequence[str]) -> str:
    """A short name for a file among several."""
    stem = Path(path).name.removesuffix(".onnx")
    return stem if [Path(p).name for p in paths].count(Path(path).name) == 1 else path


@contextmanager
def _progress(label: str, unit: str) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on standard error; none where that is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn(label),
        BarColumn(),
        TextColumn(f"{{task.completed}} {unit}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done: bar.update(task, completed=done)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="intact", description="int8 models that keep their accuracy, for any ONNX runtime"
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    quantize = commands.add_parser("quantize", help="make an int8 model from a float ONNX file")
    quantize.set_defaults(command=_quantize)
    quantize.add_argument("model", help="float ONNX file")
    quantize.add_argument("-o", "--output", required=True, help="where to write the int8 model")
    quantize.add_argument(
        "--mode",
        choices=("static", "dynamic"),
        default="static",
        help="static: ranges fixed by calibration data; dynamic: computed at run "
        "time, no data (default: %(default)s)",
    )
    quantize.add_argument("--calibration", metavar="DATA", help=_DATA_HELP)
    quantize.add_argument(
        "--method",
        choices=tuple(METHODS),
        default="mse",
        help="how a static range is chosen (default: %(default)s)",
    )
    quantize.add_argument(
        "--activations",
        choices=("uint8", "int8"),
        default="uint8",
        help="asymmetric uint8 or symmetric int8 (default: %(default)s)",
    )
    for verb, effect in (("include", "quantize only"), ("exclude", "leave in float")):
        quantize.add_argument(
            f"--{verb}",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"{effect} operators of this type or name pattern; repeatable",
        )
    quantize.add_argument(
        "--override",
        action="append",
        default=[],
        metavar="PATTERN=MODE",
        help="static, dynamic or float for some operators; repeatable",
    )
    quantize.add_argument(
        "--target",
        choices=TARGETS,
        default="portable",
        help="portable: any runtime; onnxruntime: what it is fast with; "
        "onnxruntime-no-vnni: the same, exact on x86 without VNNI "
        "(default: %(default)s)",
    )
    quantize.add_argument(
        "--mask",
        default="auto",
        metavar="INPUT",
        help="input that is 0 at padding, left out of calibration (default: "
        "'attention_mask' if there is one)",
    )
    quantize.add_argument(
        "--max-samples", type=_positive, metavar="N", help="use at most about N calibration samples"
    )
    quantize.add_argument("--plan", metavar="JSON", help="carry out this plan instead of choosing")
    _add_data_options(quantize)

    compare = commands.add_parser(
        "compare", help="accuracy, fidelity, latency and size of int8 models beside float"
    )
    compare.set_defaults(command=_compare)
    compare.add_argument("model", help="float ONNX file")
    compare.add_argument("quantized", nargs="+", help="int8 ONNX files")
    compare.add_argument("--data", required=True, metavar="DATA", help=_DATA_HELP)
    compare.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="exit with 1 if accuracy drops by more percentage points (without "
        "labels: if more percent of samples change class)",
    )
    compare.add_argument(
        "--min-speedup",
        type=float,
        metavar="RATIO",
        help="exit with 1 if a model is not so many times faster",
    )
    compare.add_argument(
        "--repetitions",
        type=_positive,
        default=50,
        metavar="N",
        help="timed runs of each model, interleaved (default: %(default)s)",
    )
    compare.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_data_options(compare)

    inspect = commands.add_parser("inspect", help="each operator of an int8 model, and how it runs")
    inspect.set_defaults(command=_inspect)
    inspect.add_argument("model", help="int8 ONNX file")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")
    inspect.add_argument(
        "--program", action="store_true", help="print the native engine's program instead"
    )
    _add_run_options(inspect)

    bench_parser = commands.add_parser(
        "bench", help="how fast a model runs, and where its time goes"
    )
    bench_parser.set_defaults(command=_bench)
    bench_parser.add_argument("model", help="int8 ONNX file")
    bench_parser.add_argument("--batch-size", type=_positive, default=1, metavar="N")
    bench_parser.add_argument(
        "--repetitions",
        type=_positive,
        default=50,
        metavar="N",
        help="timed runs (default: %(default)s)",
    )
    bench_parser.add_argument(
        "--profile", action="store_true", help="print the time of each operator of the program"
    )
    bench_parser.add_argument(
        "--trace", metavar="JSON", help="write the same for a viewer of Chrome's trace events"
    )
    _add_run_options(bench_parser)

    demo = commands.add_parser(
        "demo", help="train a small CNN on scikit-learn's digits, quantize it both ways, compare"
    )
    demo.set_defaults(command=_demo)
    demo.add_argument("-o", "--output", metavar="DIRECTORY", help="keep the three models there")
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads (default: all)")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="auto",
        help="native: intact's own engine; auto: that, where it runs the model "
        "(default: %(default)s)",
    )


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size",
        type=_positive,
        default=16,
        metavar="N",
        help="samples read at once (default: %(default)s)",
    )
    parser.add_argument(
        "--dynamic-axis",
        action="append",
        default=[],
        metavar="INPUT:AXIS=NAME",
        help="an axis that may vary although the file fixes it; repeatable",
    )
    parser.add_argument("--threads", type=_positive, metavar="N", help="threads (default: all)")
    group = parser.add_argument_group("images", "how image files become the model's input")
    group.add_argument("--size", type=_positive, nargs=2, metavar=("HEIGHT", "WIDTH"))
    group.add_argument(
        "--mean",
        type=float,
        nargs="+",
        default=[0.0],
        help="subtracted from values in [0, 1], one number or one a channel",
    )
    group.add_argument("--std", type=float, nargs="+", default=[1.0], help="divided by afterwards")
    group.add_argument("--layout", choices=("nchw", "nhwc"), default="nchw")
    group.add_argument("--channels", choices=("rgb", "bgr", "gray"), default="rgb")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
