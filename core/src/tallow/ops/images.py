"""Decoding of image files, on the host with Pillow where it is installed."""

from __future__ import annotations

import io

import numpy as np

from tallow.dim import symbol
from tallow.dtype import u8
from tallow.errors import GraphError, Unavailable
from tallow.graph import TensorType
from tallow.ops.rules import tensors
from tallow.ops.table import Op, register

FORMATS = {"RGB": 3, "BGR": 3, "Grayscale": 1}  # channels


def _infer(types, attributes):
    (type_,) = tensors("image_decode", types)
    if type_.dtype != u8 or type_.rank != 1:
        raise GraphError(f"image_decode: expected the bytes of a file as u8[n], got {type_}")
    if attributes["format"] not in FORMATS:
        raise GraphError(f"image_decode: expected {', '.join(FORMATS)}, got {attributes['format']!r}")
    height, width = map(symbol, attributes["defines"])
    return (TensorType(u8, (height, width, FORMATS[attributes["format"]])),)


def _evaluate(arrays, attributes):
    """Height, width, channels; an empty picture when the bytes are no image that can be read."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise Unavailable("decoding images needs Pillow: pip install 'tallow[images]'") from None
    (data,) = arrays
    channels = FORMATS[attributes["format"]]
    try:
        with Image.open(io.BytesIO(data.tobytes())) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return (np.empty((0, 0, channels), np.uint8),)
    if channels == 1:
        return (pixels[..., None],)
    return (np.ascontiguousarray(pixels[..., ::-1] if attributes["format"] == "BGR" else pixels),)


register(Op("image_decode", "host", _infer, _evaluate))
