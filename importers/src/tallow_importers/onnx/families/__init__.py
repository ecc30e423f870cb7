"""Handlers of ONNX operators by family; importing this package registers them all."""

from tallow_importers.onnx.families import (
    attention,
    control,
    convolution,
    detection,
    elementwise,
    gather,
    matmul,
    microsoft,
    normalization,
    quantization,
    random,
    recurrent,
    reduction,
    resize,
    shape,
    signal,
)

__all__ = [
    "attention",
    "control",
    "convolution",
    "detection",
    "elementwise",
    "gather",
    "matmul",
    "microsoft",
    "normalization",
    "quantization",
    "random",
    "recurrent",
    "reduction",
    "resize",
    "shape",
    "signal",
]
