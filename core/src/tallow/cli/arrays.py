"""Inputs on the command line: `x=@file.npy`, `x=@picture.png`, `x=[1,2,3]` and `x=random`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallow.dtype import DType, dtype
from tallow.errors import InputError, Unavailable
from tallow.executable import Port

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Picture:
    """How a picture becomes an input: (pixel * scale - mean) / std for each channel."""

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: str = "auto"
    channels: str = "rgb"


def read_file(path: Path) -> np.ndarray:
    """The array of a numpy file; InputError when it is none."""
    if not path.is_file():
        raise InputError(f"input file {path} does not exist")
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise InputError(f"{path} is no numpy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} holds several arrays: expected one, in an .npy file")
    return array


def read_literal(text: str, port: Port) -> np.ndarray:
    """The array of a JSON number, text or nested list, in the input's dtype and rank; InputError when it
    does not fit without loss."""
    kind: DType = port.dtype
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    wide = np.asarray(value, object)
    if kind.kind == "string":
        array = wide
    else:
        try:
            array = np.asarray(value, None if wide.size else kind.numpy)
        except ValueError:
            array = wide
        if array.dtype.kind not in "biuf":
            raise InputError(
                f"{port.name}={text}: expected @file.npy, @picture.png, random, a number or a list such as [1, 2]"
            )
        exact = array.astype(kind.numpy)
        if not kind.is_float and not np.array_equal(exact.astype(array.dtype), array):
            raise InputError(f"{port.name}={text}: expected values of {kind}")
        array = exact
    return array.reshape((1,) * max(0, len(port.shape) - array.ndim) + array.shape)


def read_picture(path: Path, port: Port, how: Picture) -> np.ndarray:
    """A picture as the model's [N, C, H, W] or [N, H, W, C]: resized, scaled, normalised."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise Unavailable("pictures need Pillow: pip install pillow") from None
    if len(port.shape) != 4 or not (port.dtype.is_float or port.dtype.is_integer):
        raise InputError(f'input "{port.name}": a picture needs a model input of rank 4, got {port}')
    shape = [d if isinstance(d, int) else None for d in port.shape]
    first = how.layout == "nchw" or (how.layout == "auto" and (shape[1] in (1, 3) or shape[3] not in (1, 3)))
    channels = (shape[1] if first else shape[3]) or 3
    if channels not in (1, 3) or any(len(v) not in (1, channels) for v in (how.mean, how.std)):
        raise InputError(f'input "{port.name}": {channels} channels do not fit a picture, --mean and --std')
    height, width = (shape[2], shape[3]) if first else (shape[1], shape[2])
    try:
        with Image.open(path) as file:
            picture = file.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} is no picture: {error}") from None
    picture = picture.resize((width or picture.width, height or picture.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels)
    pixels = pixels[:, :, ::-1] if how.channels == "bgr" else pixels
    pixels = (pixels * how.scale - np.asarray(how.mean, np.float32)) / np.asarray(how.std, np.float32)
    pixels = pixels if port.dtype.is_float else np.rint(pixels)
    return np.ascontiguousarray(
        (pixels.transpose(2, 0, 1) if first else pixels)[None].astype(port.dtype.numpy)
    )


def random_array(port: Port, dims: Mapping[str, object], generator: np.random.Generator) -> np.ndarray:
    """Noise for an input; symbolic sizes come from `dims` (of bounds, the least but 1 at least), else 1."""
    if port.dtype is None:
        raise InputError(
            f'input "{port.name}" is {port.shape[0]}: only tensors can be given on the command line'
        )
    shape = [d if isinstance(d, int) else _size(dims.get(d, 1)) for d in port.shape]
    kind: DType = port.dtype
    if kind.is_float or kind.kind == "complex":
        return generator.standard_normal(shape).astype(kind.numpy)
    if kind.kind == "bool":
        return generator.random(shape) < 0.5
    if kind.kind == "string":
        return np.full(shape, "text", object)
    return generator.integers(0, 2, shape).astype(kind.numpy)


def _size(given) -> int:
    return given if isinstance(given, int) else max(1, given[0])


def parse_inputs(
    words: Sequence[str], ports: Sequence[Port], dims: Mapping[str, object], picture: Picture
) -> dict[str, np.ndarray]:
    """The arrays of `name=value` words; inputs that are not named get seeded noise, with the sizes that
    the given ones have."""
    by_name = {p.name: p for p in ports}
    found: dict[str, np.ndarray] = {}
    for word in words:
        name = next((n for n in by_name if word.startswith(f"{n}=")), None)
        if name is None:
            raise InputError(f"{word!r}: expected NAME=VALUE with NAME one of {', '.join(by_name)}")
        text = word[len(name) + 1 :]
        if text != "random":
            found[name] = _read(text, by_name[name], picture)
    sizes = dict(dims) | {
        d: extent
        for n, array in found.items()
        for d, extent in zip(by_name[n].shape, array.shape, strict=False)
        if isinstance(d, str)
    }
    generator = np.random.default_rng(0)
    missing = [p for p in ports if p.name not in found]
    return found | {p.name: random_array(p, sizes, generator) for p in missing}


def _read(text: str, port: Port, picture: Picture) -> np.ndarray:
    if port.dtype is None:
        raise InputError(
            f'input "{port.name}" is {port.shape[0]}: only tensors can be given on the command line'
        )
    if not text.startswith("@"):
        return read_literal(text, port)
    path = Path(text[1:])
    return read_picture(path, port, picture) if path.suffix.lower() in PICTURES else read_file(path)


def described(array) -> dict:
    """A result in a few facts."""
    if not isinstance(array, np.ndarray):
        return {"type": type(array).__name__} | ({"length": len(array)} if isinstance(array, list) else {})
    text: dict = {"dtype": str(dtype(array.dtype)), "shape": list(array.shape)}
    if array.size and dtype(array.dtype).kind in ("float", "int", "uint"):
        wide = array.astype(np.float64)
        text |= {"min": float(wide.min()), "max": float(wide.max()), "mean": float(wide.mean())}
        text |= {"nan": int(np.isnan(wide).sum())} if math.isnan(text["mean"]) else {}
    return text
