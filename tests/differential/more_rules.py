"""Rules for operators beyond the everyday: sums of many, made values, sequences turned round, codes, images."""

from __future__ import annotations

import numpy as np
from drafts import FLOATS, INTEGERS, Draft, Refused
from onnx import numpy_helper
from rules import NUMBERS, REAL, RULES, rule, window

EVERYDAY = tuple(RULES)  # those of `rules` alone


@rule("Sum", "Mean")
def of_many(d: Draft, op: str):
    x = d.operand(FLOATS, bound=50)
    d.add(op, [x, *(d.broadcast_partner(x) for _ in range(d.random.randint(0, 3)))])


@rule("Shrink")
def shrink(d: Draft, op: str):
    x = d.operand((*FLOATS, "int32", "int8"), exact=True)
    if x.dtype == "float64":
        raise Refused("onnxruntime computes in float32")
    d.add(op, [x], exact=True, lambd=d.one_of(0.5, 1.0), bias=d.one_of(0.0, 0.5))


@rule("Dropout")
def dropout(d: Draft, op: str):
    """As in inference, where it does nothing."""
    d.add(op, [d.operand(FLOATS)], d.one_of(1, 2), exact=True)


@rule("CastLike")
def cast_like(d: Draft, op: str):
    if d.opset < 15:
        raise Refused("came with opset 15")
    x, like = d.operand(NUMBERS, exact=True), d.operand((*FLOATS, "int32", "int64"))
    d.add(op, [x, like], exact=like.dtype not in FLOATS)


@rule("Range")
def counted(d: Draft, op: str):
    dtype, step = d.one_of("int64", "int32", "float32"), d.one_of(1, 2, -1, 3)
    start = d.random.randint(-4, 4)
    ends = (start, start + step * d.random.randint(0, 5), step)
    d.add(op, [d.integers(n, dtype) for n in ends], exact=True)


@rule("ConstantOfShape")
def filled(d: Draft, op: str):
    value = numpy_helper.from_array(np.array([d.random.randint(0, 3)], d.one_of("float32", *INTEGERS)))
    d.add(op, [d.integers(d.shape(d.one_of(0, 1, 2, 3)))], exact=True, value=value)


@rule("EyeLike")
def eye(d: Draft, op: str):
    d.add(op, [d.operand((*REAL, "int32", "int64"), rank=2)], exact=True, k=d.random.randint(-2, 2))


@rule("HannWindow", "HammingWindow", "BlackmanWindow")
def window_function(d: Draft, op: str):
    if d.opset < 17:
        raise Refused("came with opset 17")
    d.add(op, [d.integers(d.random.randint(2, 9))], exact=False, periodic=d.one_of(0, 1))


@rule("ReverseSequence")
def turned(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int64", "int32"), least_rank=2)
    batch = d.one_of(0, 1)
    if not x.array.size:
        raise Refused("nothing to turn")
    lengths = d.numbers("int64", (x.shape[batch],), 1, x.shape[1 - batch])
    d.add(op, [x, d.integers(lengths)], exact=True, batch_axis=batch, time_axis=1 - batch)


@rule("ReduceLogSum")
def log_of_sum(d: Draft, op: str):
    x = d.given(d.numbers(d.one_of(*REAL), d.shape(d.one_of(1, 2, 3)), 0.5, 3))
    if not x.array.size:
        raise Refused("nothing to sum")
    axis = d.axis(x)
    more, attributes = ([d.integers([axis])], {}) if d.opset >= 18 else ([], {"axes": [axis]})
    d.add(op, [x, *more], exact=False, keepdims=d.one_of(0, 1), **attributes)


@rule("GlobalLpPool")
def global_norm(d: Draft, op: str):
    d.add(op, [d.operand(("float32",), rank=(3, 4))], exact=False, p=d.one_of(1, 2))


@rule("Einsum")
def einsum(d: Draft, op: str):
    sizes = {letter: d.size() for letter in "abcd"}
    equation = d.one_of(
        *(
            "ab,bc->ac",
            "ab,bc",
            "abc,abd->acd",
            "ab,ab->",
            "ab->ba",
            "aab->ab",
            "ab->a",
            "a,b->ab",
            "abc,cd->abd",
        ),
        *("...a,...a->...", "ab,bc,cd->ad", "ii->i"),
    )
    dtype = d.one_of("float32", "float64", "int64")
    operands = []
    for term in equation.split("->")[0].split(","):
        shape = [2] if term.startswith("...") else []
        shape += [sizes.get(letter, 3) for letter in term.replace("...", "")]
        operands.append(d.given(d.numbers(dtype, shape)))
    d.add(op, operands, equation=equation)


@rule("Det")
def determinant(d: Draft, op: str):
    n = d.random.randint(1, 4)
    d.add(op, [d.given(d.numbers("float32", (*d.shape(d.one_of(0, 1)), n, n)))], exact=False)


@rule("CenterCropPad")
def centred(d: Draft, op: str):
    x = d.operand(("float32", "int64"), least_rank=1)
    if d.opset < 18:
        raise Refused("came with opset 18")
    axes = d.random.sample(range(x.rank), d.random.randint(1, x.rank))
    d.add(op, [x, d.integers([d.random.randint(1, 8) for _ in axes])], exact=True, axes=axes)


@rule("Col2Im")
def columns_to_picture(d: Draft, op: str):
    if d.opset < 18:
        raise Refused("came with opset 18")
    picture, block = [d.random.randint(3, 6) for _ in range(2)], [d.random.randint(1, 3) for _ in range(2)]
    strides = [d.random.randint(1, 2) for _ in block]
    blocks = np.prod([(p - b) // s + 1 for p, b, s in zip(picture, block, strides, strict=True)])
    x = d.given(d.numbers("float32", (d.one_of(1, 2), 2 * block[0] * block[1], int(blocks))))
    d.add(op, [x, d.integers(picture), d.integers(block)], strides=strides)


@rule("GridSample")
def sampled(d: Draft, op: str):
    """Modes as the opset names them; places away from where a rounding error decides."""
    if d.opset < 16:
        raise Refused("came with opset 16")
    x = d.given(
        d.numbers("float32", (1, d.random.randint(1, 3), d.random.randint(2, 5), d.random.randint(2, 5)))
    )
    grid = d.given(d.numbers("float32", (1, d.random.randint(1, 4), 3, 2), -1.3, 1.3))
    linear, cubic = ("linear", "cubic") if d.opset >= 20 else ("bilinear", "bicubic")
    attributes = {"mode": d.one_of(linear, cubic), "padding_mode": d.one_of("zeros", "border", "reflection")}
    d.add(op, [x, grid], exact=False, align_corners=d.one_of(0, 1), **attributes)


@rule("RoiAlign")
def regions(d: Draft, op: str):
    if d.opset < 16:
        raise Refused("coordinates meant another thing")
    x = d.given(d.numbers("float32", (2, d.random.randint(1, 3), 6, 7)))
    corners = d.numbers("float32", (3, 2), 0, 3)
    boxes = d.given(np.concatenate([corners, corners + d.numbers("float32", (3, 2), 1, 3)], 1))
    sizes = {"output_height": d.random.randint(1, 3), "output_width": d.random.randint(1, 3)}
    way = {
        "sampling_ratio": d.one_of(1, 2, 3),
        "coordinate_transformation_mode": d.one_of("half_pixel", "output_half_pixel"),
    }
    d.add(
        op, [x, boxes, d.integers([0, 1, 1])], exact=False, spatial_scale=d.one_of(1.0, 0.5), **sizes, **way
    )


@rule("MaxUnpool")
def unpooled(d: Draft, op: str):
    x = d.given(d.numbers("float32", (1, 2, 2 * d.random.randint(1, 3), 2 * d.random.randint(1, 3))), False)
    spec = {"kernel_shape": [2, 2], "strides": [2, 2]}
    values, places = d.add("MaxPool", [x], 2, exact=True, **spec)
    d.add(op, [values, places], exact=True, **spec)


@rule("ConvInteger")
def conv_of_bytes(d: Draft, op: str):
    sizes = [d.random.randint(3, 7) for _ in range(2)]
    kernel, attributes = window(d, sizes)
    groups, each = d.one_of(1, 2), d.random.randint(1, 4)
    x = d.given(d.numbers("uint8", (d.one_of(1, 2), groups * each, *sizes), 0, 255), False)
    w = d.given(
        d.numbers(d.one_of("uint8", "int8"), (groups * d.random.randint(1, 4), each, *kernel), -128, 127),
        True,
    )
    zero = d.given(np.asarray(d.random.randint(0, 200), "uint8"), True) if d.chance(0.7) else None
    d.add(op, [x, w, zero], group=groups, kernel_shape=kernel, **attributes)


@rule("QLinearMatMul")
def matmul_of_codes(d: Draft, op: str):
    """Scales are powers of two, so that every rounding is of the exact number."""
    m, k, n = d.size(), d.random.randint(1, 20), d.size()
    kinds = ("uint8", d.one_of("uint8", "int8"), "uint8")
    scales = [d.given(np.asarray(2.0 ** d.random.randint(-6, -2), "float32"), True) for _ in kinds]
    zeros = [d.given(np.asarray(d.random.randint(0, 20), kind), True) for kind in kinds]
    a = d.given(d.numbers(kinds[0], (m, k), 0, 255), False)
    w = d.given(d.numbers(kinds[1], (k, n), -128, 127), True)
    d.add(op, [a, scales[0], zeros[0], w, scales[1], zeros[1], scales[2], zeros[2]], exact=True)


@rule("GroupNormalization")
def group_norm(d: Draft, op: str):
    if d.opset < 21:
        raise Refused("scales were one for a group")
    groups, each = d.random.randint(1, 3), d.random.randint(1, 3)
    x = d.given(d.numbers("float32", (2, groups * each, d.random.randint(2, 4), 3)))
    scale, bias = (d.given(d.numbers("float32", (groups * each,))) for _ in range(2))
    d.add(op, [x, scale, bias], exact=False, num_groups=groups, epsilon=0.1)


@rule("AffineGrid")
def affine(d: Draft, op: str):
    if d.opset < 20:
        raise Refused("came with opset 20")
    theta = d.given(d.numbers("float32", (2, 2, 3)))
    d.add(
        op,
        [theta, d.integers([2, 3, d.random.randint(2, 4), d.random.randint(2, 4)])],
        exact=False,
        align_corners=d.one_of(0, 1),
    )
