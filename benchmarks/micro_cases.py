"""The single operators that are measured: a table of names, graphs, and the arithmetic that each needs.

Products with `packed` have a constant operand, which is packed at compile time; with `run-time`, none.
"""

from __future__ import annotations

from tallow.testing.speed_cases import attention, batched, conv, depthwise, elementwise, matmul, rows

_SQUARES = (384, 512, 768, 1024, 1536, 2048)
_TRANSFORMER = (
    (128, 768, 768),
    (128, 768, 3072),
    (128, 3072, 768),
    (197, 768, 2304),
    (64, 768, 50257),
    (1500, 384, 1536),
    (128, 384, 1536),
)
_GEMV = ((64, 64), (768, 768), (768, 3072), (3072, 768), (2048, 2048), (4096, 4096), (768, 50257))
CASES = (
    *(matmul(n, n, n, packed) for packed in (True, False) for n in _SQUARES),
    *(matmul(*shape, packed) for packed in (True, False) for shape in _TRANSFORMER),
    batched(12, 128, 64, 128),
    batched(12, 128, 128, 64),
    *(matmul(1, *shape, packed) for packed in (True, False) for shape in _GEMV),
    *(conv("conv", c, s, c, 3) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7))),
    *(conv("conv", c, s, c, 3) for c, s in ((64, 224), (128, 112), (256, 56), (512, 28), (512, 14))),
    conv("conv", 64, 56, 256, 1),
    conv("conv", 256, 56, 64, 1),
    conv("conv", 1024, 14, 256, 1),
    conv("conv", 512, 7, 2048, 1),
    conv("conv", 3, 224, 64, 7, stride=2),
    conv("conv", 3, 224, 64, 3),
    conv("conv", 3, 224, 32, 3, stride=2),
    conv("conv", 128, 56, 128, 3, stride=2),
    conv("conv", 256, 56, 512, 1, stride=2),
    conv("conv", 96, 27, 256, 5),
    conv("conv", 128, 28, 128, 3, groups=32),
    conv("conv", 112, 28, 112, 1, groups=4),
    conv("conv", 256, 28, 256, 3, dilation=2),
    depthwise(144, 56, 3),
    depthwise(144, 56, 3, stride=2),
    depthwise(960, 7, 3),
    depthwise(96, 56, 7),
    *(rows("softmax", *shape) for shape in ((1, 1000), (256, 128), (1024, 32), (12, 128, 128))),
    *(rows("softmax", *shape) for shape in ((12, 512, 512), (64, 50257), (4096, 4096), (131072, 64))),
    *(rows("log_softmax", *shape) for shape in ((12, 128, 128), (64, 50257), (4096, 4096))),
    *(rows("layer_norm", *shape) for shape in ((128, 768), (1500, 384), (4096, 1024), (16384, 768))),
    *(rows("rms_norm", *shape) for shape in ((128, 768), (4096, 4096))),
    attention(12, 128, 128, 64),
    attention(12, 197, 197, 64),
    attention(6, 1500, 1500, 64),
    attention(12, 512, 512, 64, causal=True),
    attention(12, 1, 1024, 64),
    *elementwise(),
)
