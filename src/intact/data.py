"""Calibration and test data for the command line: arrays and images from disk.

Read batch by batch, so that a folder of any size fits. Nothing is ever unpickled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from intact.capture.signature import Signature
from intact.core.errors import InputError

__all__ = ["ImageOptions", "batches"]

Array = NDArray[Any]
_IMAGES: Final = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_ARRAYS: Final = frozenset({".npy", ".npz"})
_LABELS: Final = ("label", "labels", "target", "targets")


@dataclass(frozen=True)
class ImageOptions:
    """How an image file becomes the model's input: resize, `(value / 255 - mean) / std`, lay out.

    size: (height, width) in pixels; mean, std: one number a channel, of values in [0, 1].
    layout: "nchw" or "nhwc"; channels: order "rgb" or "bgr", or "gray".
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc"] = "nchw"
    channels: Literal["rgb", "bgr", "gray"] = "rgb"

    def __post_init__(self) -> None:
        depth = 1 if self.channels == "gray" else 3
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, depth):
                raise InputError(
                    f"--{name} has {len(values)} numbers, but images have {depth} channels; give "
                    f"one number, or {depth}"
                )
        if min(self.size) < 1:
            raise InputError(f"--size {self.size} is not a size; give height and width in pixels")
        if 0.0 in self.std:
            raise InputError("--std holds a 0, which nothing can be divided by")

    def read(self, path: Path) -> NDArray[np.float32]:
        """One image with a batch axis of 1. Raises InputError if the file is no image."""
        try:
            with Image.open(path) as image:
                converted = image.convert("L" if self.channels == "gray" else "RGB")
                resized = converted.resize((self.size[1], self.size[0]), Image.Resampling.BILINEAR)
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise InputError(f"'{path}' is not a readable image ({error}); remove it") from None
        pixels = np.asarray(resized, np.float32).reshape(*self.size, -1) / 255
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        normal = (pixels - mean) / std
        if self.layout == "nchw":
            normal = normal.transpose(2, 0, 1)
        return np.ascontiguousarray(normal[None], np.float32)


def batches(
    path: Path, signature: Signature, batch_size: int, images: ImageOptions | None = None
) -> Iterator[tuple[dict[str, Array], Array | None]]:
    """The inputs by name, and the labels if there are any, batch by batch.

    path: an .npz file (arrays called as the inputs are, perhaps also "labels"), an .npy file (the
        model's only input), a directory of such files, or a directory of images.
    Raises InputError for anything else, and where names or lengths do not fit.
    """
    if not path.exists():
        raise InputError(f"the data '{path}' does not exist; give a file or a directory")
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _IMAGES | _ARRAYS)
        if not files:
            raise InputError(f"the directory '{path}' holds no images and no .npy or .npz files")
    else:
        files = [path]
    pictures = [p for p in files if p.suffix.lower() in _IMAGES]
    if pictures and len(pictures) < len(files):
        raise InputError(f"'{path}' holds both images and arrays; put them in two directories")
    if pictures:
        yield from _image_batches(pictures, signature, batch_size, images)
        return
    for file in files:
        yield from _array_batches(file, signature, batch_size)


def _image_batches(
    files: Sequence[Path], signature: Signature, batch_size: int, images: ImageOptions | None
) -> Iterator[tuple[dict[str, Array], None]]:
    if len(signature.inputs) != 1:
        raise InputError(
            f"the model takes {len(signature.inputs)} inputs, so images alone are not enough; give "
            ".npz files with an array for each"
        )
    if images is None:
        raise InputError(
            "images need a stated preprocessing: give --size HEIGHT WIDTH, and --mean, --std, "
            "--layout and --channels as the model was trained"
        )
    name = signature.inputs[0].name
    for group in _groups(len(files), batch_size, signature):
        yield {name: np.concatenate([images.read(files[i]) for i in group])}, None


def _array_batches(
    file: Path, signature: Signature, batch_size: int
) -> Iterator[tuple[dict[str, Array], Array | None]]:
    arrays = _read_arrays(file, signature)
    labels = next((arrays.pop(name) for name in _LABELS if name in arrays), None)
    lengths = {name: len(array) if array.ndim else 1 for name, array in arrays.items()}
    if labels is not None:
        lengths["labels"] = len(labels)
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"'{name}' {length}" for name, length in lengths.items())
        raise InputError(f"the arrays in '{file}' differ in length: {shown}; make them equal")
    for group in _groups(next(iter(lengths.values())), batch_size, signature):
        part = slice(group.start, group.stop)
        yield {n: a[part] for n, a in arrays.items()}, None if labels is None else labels[part]


def _read_arrays(file: Path, signature: Signature) -> dict[str, Array]:
    inputs = [spec.name for spec in signature.inputs]
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(inputs) != 1:
                raise InputError(
                    f"'{file}' holds one array, but the model takes {', '.join(inputs)}; give an "
                    ".npz file with an array for each"
                )
            return {inputs[0]: loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise InputError(f"'{file}' is not a readable file of arrays: {error}") from None
    missing = [name for name in inputs if name not in arrays]
    if missing:
        raise InputError(
            f"'{file}' has no array '{missing[0]}'; it has {', '.join(arrays)}, and the model "
            f"takes {', '.join(inputs)}"
        )
    return {name: arrays[name] for name in arrays if name in inputs or name in _LABELS}


def _groups(count: int, batch_size: int, signature: Signature) -> Iterator[range]:
    """Consecutive ranges of samples; a model with a fixed batch takes exactly that many."""
    if count == 0:
        raise InputError("the data holds no samples; give at least one")
    first = signature.inputs[0].shape
    if first and isinstance(first[0], int):
        batch_size = first[0]
        if count < batch_size:
            raise InputError(
                f"the data holds {count} samples, fewer than one batch of {batch_size}, which the "
                "model fixes; give more"
            )
        count -= count % batch_size
    for start in range(0, count, batch_size):
        yield range(start, min(start + batch_size, count))
