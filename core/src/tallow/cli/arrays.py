"""Inputs on the command line: `x=@file.npy`, `x=@picture.png`, `x=random`, and named npz files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tallow.dtype import DType, dtype
from tallow.errors import InputError
from tallow.executable import Port


def read_array(text: str) -> np.ndarray:
    """The array of `@file.npy` or of a literal such as `3` or `[1,2,3]`."""
    if not text.startswith("@"):
        try:
            return (
                np.array(np.matrix(text.strip("[]"))).reshape(-1) if "," in text else np.asarray(float(text))
            )
        except ValueError:
            raise InputError(
                f"input {text!r}: expected @file.npy, @image, random, a number or a list of numbers"
            ) from None
    path = Path(text[1:])
    if not path.is_file():
        raise InputError(f"input file {path} does not exist")
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is no numpy file: {error}") from None


def read_image(
    path: Path, port: Port, mean: Sequence[float], std: Sequence[float], scale: float
) -> np.ndarray:
    """A picture as the model's [N, C, H, W] (or [N, H, W, C]) floats: resized, scaled, normalised."""
    shape = [d if isinstance(d, int) else None for d in port.shape]
    if len(shape) != 4:
        raise InputError(f'input "{port.name}": a picture needs a model input of rank 4, got {port}')
    first = shape[1] in (1, 3) or shape[3] not in (1, 3)
    channels = (shape[1] if first else shape[3]) or 3
    height, width = (shape[2], shape[3]) if first else (shape[1], shape[2])
    try:
        picture = Image.open(path).convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} is no picture: {error}") from None
    picture = picture.resize((width or picture.width, height or picture.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.float32).reshape(picture.height, picture.width, channels) * scale
    pixels = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return (pixels.transpose(2, 0, 1) if first else pixels)[None].astype(port.dtype.numpy)


def random_array(port: Port, dims: Mapping[str, int], generator: np.random.Generator) -> np.ndarray:
    """Noise for an input; symbolic sizes come from `dims`, else 1."""
    shape = [d if isinstance(d, int) else dims.get(d, 1) for d in port.shape]
    kind: DType = port.dtype
    if kind.is_float:
        return generator.standard_normal(shape).astype(kind.numpy)
    if kind.kind == "bool":
        return generator.random(shape) < 0.5
    return generator.integers(0, 2, shape).astype(kind.numpy)


def parse_inputs(
    words: Sequence[str], ports: Sequence[Port], dims: Mapping[str, int], picture: dict
) -> dict[str, np.ndarray]:
    """The arrays of `name=value` words; inputs that are not named get noise."""
    generator = np.random.default_rng(0)
    by_name = {p.name: p for p in ports}
    found: dict[str, np.ndarray] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in by_name:
            raise InputError(f"{word!r}: expected NAME=VALUE with NAME one of {', '.join(by_name)}")
        port = by_name[name]
        if text == "random":
            continue
        if text.startswith("@") and Path(text[1:]).suffix.lower() in (
            ".png",
            ".jpg",
            ".jpeg",
            ".bmp",
            ".webp",
        ):
            found[name] = read_image(Path(text[1:]), port, **picture)
            continue
        array = read_array(text)
        if array.ndim < len(port.shape) and not text.startswith("@"):
            array = array.reshape((1,) * (len(port.shape) - array.ndim) + array.shape)
        found[name] = array.astype(port.dtype.numpy) if not text.startswith("@") else array
    missing = [p for p in ports if p.name not in found]
    return found | {p.name: random_array(p, dims, generator) for p in missing}


def described(array: np.ndarray) -> dict:
    """A result in a few numbers."""
    text = {"dtype": str(dtype(array.dtype)), "shape": list(array.shape)}
    if array.size and array.dtype.kind in "fiu":
        wide = array.astype(np.float64)
        text |= {"min": float(wide.min()), "max": float(wide.max()), "mean": float(wide.mean())}
    return text
