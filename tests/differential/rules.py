"""How random nodes are made: one rule for each kind of operator, by name of the operators it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from drafts import ALL, FLOATS, INTEGERS, Draft, Refused, Value

Rule = Callable[[Draft, str], object]
RULES: dict[str, Rule] = {}
REAL = ("float32", "float64")
NUMBERS = (*FLOATS, *INTEGERS)


def rule(*operators: str):
    def register(make: Rule) -> Rule:
        RULES.update(dict.fromkeys(operators, make))
        return make

    return register


# Element by element --------------------------------------------------------------------------------

STEPS = ("Floor", "Ceil", "Round", "Sign", "IsNaN", "IsInf")
BOUNDED = {"Exp": 8, "Sinh": 8, "Cosh": 8, "Softplus": 80, "Sin": 50, "Cos": 50, "Erf": 50, "Gelu": 50}
PARAMETERS = {
    "Elu": ("alpha",),
    "Celu": ("alpha",),
    "LeakyRelu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}


@rule("Abs", "Neg", "Identity", "Relu")
def exact_unary(d: Draft, op: str):
    d.add(op, [d.operand(NUMBERS)], exact=True)


@rule(*STEPS)
def steps(d: Draft, op: str):
    """Functions that jump: of values without rounding errors alone."""
    x = d.operand(FLOATS, exact=True)
    if d.chance(0.2) and x.array.size:
        array = x.array.copy()
        special = [np.inf, -np.inf, -0.0, 0.5, -1.5]
        if (op, x.dtype) != (
            "Sign",
            "float16",
        ):  # onnxruntime has 0 for a NaN of this type, and NaN of others
            special.append(np.nan)
        array.reshape(-1)[d.random.randrange(array.size)] = d.one_of(*special)
        x = d.given(array)
    d.add(op, [x], exact=True)


@rule(
    *("Exp", "Sigmoid", "Tanh", "Erf", "Sin", "Cos", "Atan", "Asinh", "Softplus", "Softsign", "Sinh", "Cosh")
)
@rule("Gelu", "Mish", "HardSwish", *PARAMETERS)
def smooth(d: Draft, op: str):
    attributes = {a: round(d.random.uniform(0.1, 1.5), 2) for a in PARAMETERS.get(op, ()) if d.chance(0.6)}
    # onnxruntime's sixth is a float32 for numbers of 64 bits as well
    dtypes = ("float32", "float16") if op == "HardSwish" else FLOATS
    x = d.operand(dtypes, bound=BOUNDED.get(op, 1e3), exact=op == "ThresholdedRelu")
    d.add(op, [x], exact=False, **attributes)


@rule("Log", "Sqrt", "Reciprocal", "Asin", "Acos", "Atanh", "Acosh", "Tan")
def partial(d: Draft, op: str):
    """Functions of a part of all numbers: of inputs that lie well inside."""
    low, high = {"Asin": (-0.9, 0.9), "Acos": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Tan": (-1, 1)}.get(
        op, (1.1, 4)
    )
    d.add(op, [d.given(d.numbers(d.one_of(*FLOATS), d.shape(), low, high))], exact=False)


@rule("Add", "Sub", "Mul", "Max", "Min", "PRelu")
def binary(d: Draft, op: str):
    x = d.operand(NUMBERS, bound=50)
    y = d.broadcast_partner(x)
    if op == "PRelu":
        return d.add(op, [x, d.like(x, x.shape[-1:] if d.chance(0.5) else x.shape)])
    operands = [x, y] if d.chance(0.5) or op == "Sub" else [y, x]
    if op in ("Max", "Min") and d.chance(0.3):
        operands.append(d.broadcast_partner(x))
    return d.add(op, operands, exact=op in ("Max", "Min") or None)


@rule("Div", "Mod")
def divided(d: Draft, op: str):
    x = d.operand(NUMBERS, exact=op == "Mod", bound=50)
    floats = x.dtype in FLOATS
    array = d.numbers(x.dtype, x.shape if d.chance(0.5) else x.shape[-1:], 1, 5)
    if not x.dtype.startswith("u") and d.chance(0.5):
        array = -array
    attributes = {"fmod": 1} if op == "Mod" and (floats or d.chance(0.3)) else {}
    d.add(op, [x, d.given(array)], exact=None if op == "Div" else True, **attributes)


@rule("Pow")
def power(d: Draft, op: str):
    x = d.given(d.numbers(d.one_of("float32", "float64", "int32", "int64"), d.shape(), 1, 3))
    y = d.given(d.numbers(d.one_of("float32", "int64", "int32"), x.shape if d.chance(0.5) else (), 0, 3))
    d.add(op, [x, y])


@rule("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
def compared(d: Draft, op: str):
    x = d.operand((*NUMBERS, "bool") if op == "Equal" else NUMBERS, exact=True)
    y = d.broadcast_partner(x)
    if not y.exact:
        raise Refused("rounded")
    d.add(op, [x, y])


@rule("And", "Or", "Xor", "Not")
def logical(d: Draft, op: str):
    x = d.operand(("bool",))
    d.add(op, [x] if op == "Not" else [x, d.broadcast_partner(x)])


@rule("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot")
def bitwise(d: Draft, op: str):
    x = d.operand(INTEGERS)
    d.add(op, [x] if op == "BitwiseNot" else [x, d.broadcast_partner(x)])


@rule("BitShift")
def shift(d: Draft, op: str):
    x = d.given(d.numbers(d.one_of("uint8", "uint32", "uint64"), d.shape(), 0, 200))
    d.add(op, [x, d.given(d.numbers(x.dtype, x.shape, 0, 7))], direction=d.one_of("LEFT", "RIGHT"))


@rule("Where")
def where(d: Draft, op: str):
    x = d.operand(ALL)
    condition = d.given(d.numbers("bool", x.shape if d.chance(0.6) else x.shape[-1:]))
    d.add(op, [condition, x, d.broadcast_partner(x)], exact=True)


@rule("Clip")
def clip(d: Draft, op: str):
    x = d.operand(NUMBERS)
    low, high = (d.given(np.asarray(v, x.dtype)) if d.chance(0.7) else None for v in (0, 2))
    d.add(op, [x, low, high], exact=True)


@rule("Cast")
def cast(d: Draft, op: str):
    from onnx import helper

    target = d.one_of(*ALL)
    x = d.operand(ALL, exact=target not in FLOATS)
    if x.dtype in FLOATS and target.startswith("u") and (x.array < 0).any():
        raise Refused("no meaning")
    d.add(op, [x], exact=target not in FLOATS, to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


# Reductions ----------------------------------------------------------------------------------------


@rule(*(f"Reduce{f}" for f in ("Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2", "LogSumExp")))
def reduction(d: Draft, op: str):
    rounded = op in ("ReduceMean", "ReduceL2", "ReduceLogSumExp")
    x = d.operand(("float32", "float64") if rounded else ("float32", "float64", "int32", "int64"), bound=20)
    if 0 in x.shape and op in ("ReduceMax", "ReduceMin", "ReduceMean", "ReduceLogSumExp"):
        raise Refused("nothing to choose from")
    axes = sorted(d.random.sample(range(x.rank), d.random.randint(0, x.rank)))
    axes = [a - x.rank if d.chance(0.3) else a for a in axes]
    attributes = {"keepdims": d.one_of(0, 1)}
    operands = [x]
    if d.opset >= 18 or (op == "ReduceSum" and d.opset >= 13):
        operands.append(d.integers(axes) if axes or d.chance(0.5) else None)
        attributes["noop_with_empty_axes"] = d.one_of(0, 0, 1)
    elif axes:
        attributes["axes"] = axes
    d.add(op, operands, exact=True if op in ("ReduceMax", "ReduceMin") else None, **attributes)


@rule("ArgMax", "ArgMin")
def position(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int32", "int8"), exact=True, least_rank=1)
    attributes = {"axis": d.axis(x), "keepdims": d.one_of(0, 1), "select_last_index": d.one_of(0, 1)}
    if 0 in x.shape:
        raise Refused("nothing to choose from")
    d.add(op, [x], **attributes)


@rule("TopK")
def topk(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int64", "int32"), exact=True, least_rank=1)
    axis = d.axis(x)
    k = d.random.randint(0, x.shape[axis])
    d.add(op, [x, d.integers([k])], 2, exact=True, axis=axis, largest=d.one_of(0, 1))


@rule("CumSum")
def cumsum(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int32", "int64"), least_rank=1)
    axis = d.integers(d.axis(x))
    d.add(op, [x, axis], exclusive=d.one_of(0, 1), reverse=d.one_of(0, 1))


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(d: Draft, op: str):
    x = d.operand(FLOATS, exact=op == "Hardmax", least_rank=1)
    d.add(op, [x], exact=op == "Hardmax", **({"axis": d.axis(x)} if d.chance(0.7) else {}))


# Products ------------------------------------------------------------------------------------------


@rule("MatMul")
def matmul(d: Draft, op: str):
    x = d.operand(("float32", "float32", "float64", "int32", "int64"), least_rank=1, bound=50)
    depth, columns = x.shape[-1], d.size(20)
    batch = () if d.chance(0.5) else tuple(1 if d.chance(0.3) else n for n in x.shape[:-2])
    shape = (depth,) if d.chance(0.15) else (*batch, depth, columns)
    d.add(op, [x, d.like(x, shape)])


@rule("Gemm")
def gemm(d: Draft, op: str):
    x = d.operand(REAL, rank=2, bound=50)
    across, columns = d.one_of(0, 1), d.size(20)
    depth, rows = x.shape if across else x.shape[::-1]
    turned = d.one_of(0, 1)
    w = d.like(x, (columns, depth) if turned else (depth, columns))
    shapes = ((), (1,), (columns,), (rows, 1), (rows, columns))
    c = d.like(x, d.one_of(*shapes)) if d.chance(0.7) else None
    scales = {a: round(d.random.uniform(0.2, 2), 2) for a in ("alpha", "beta") if d.chance(0.4)}
    d.add(op, [x, w, c], transA=across, transB=turned, **scales)


def window(d: Draft, sizes, strides=(1, 2, 3), dilations=(1, 1, 2)):
    """Kernel and attributes of a window over axes of these sizes."""
    axes = len(sizes)
    kernel = [d.random.randint(1, 3) for _ in sizes]
    attributes = {
        "strides": [d.one_of(*strides) for _ in sizes],
        "dilations": [d.one_of(*dilations) for _ in sizes],
    }
    if d.chance(0.2):
        attributes["auto_pad"] = d.one_of("SAME_UPPER", "SAME_LOWER", "VALID")
        attributes["dilations"] = [1] * axes
        skips = any(k < s for k, s in zip(kernel, attributes["strides"], strict=True))
        if skips and attributes["auto_pad"] != "VALID":
            raise Refused("onnxruntime pads by less than nothing, or refuses to")
    else:
        attributes["pads"] = [d.random.randint(0, k - 1) for k in kernel * 2]
        wide = map(sum, zip(sizes, attributes["pads"][:axes], attributes["pads"][axes:], strict=True))
        spans = [(k - 1) * n + 1 for k, n in zip(kernel, attributes["dilations"], strict=True)]
        if any(span > size for span, size in zip(spans, wide, strict=True)):
            raise Refused("no window fits; onnxruntime rounds the negative count towards zero")
    return kernel, attributes


@rule("Conv")
def conv(d: Draft, op: str):
    axes = d.one_of(1, 2, 2, 3)
    groups = d.one_of(1, 1, 2, 3)
    each, results = d.random.randint(1, 5), groups * d.random.randint(1, 6)
    sizes = [d.random.randint(3, 8) for _ in range(axes)]
    kernel, attributes = window(d, sizes)
    x = d.given(d.numbers("float32", (d.one_of(1, 2), groups * each, *sizes)), False)
    w = d.given(d.numbers("float32", (results, each, *kernel)), d.chance(0.8))
    bias = d.like(x, (results,)) if d.chance(0.5) else None
    d.add(op, [x, w, bias], group=groups, kernel_shape=kernel, **attributes)


@rule("ConvTranspose")
def conv_transpose(d: Draft, op: str):
    axes, groups = d.one_of(1, 2), d.one_of(1, 1, 2)
    channels, each = groups * d.random.randint(1, 4), d.random.randint(1, 4)
    sizes = [d.random.randint(2, 5) for _ in range(axes)]
    kernel, attributes = window(d, sizes)
    if "pads" in attributes and d.chance(0.4):
        attributes["output_padding"] = [d.random.randint(0, s - 1) for s in attributes["strides"]]
    x = d.given(d.numbers("float32", (d.one_of(1, 2), channels, *sizes)), False)
    w = d.given(d.numbers("float32", (channels, each, *kernel)), d.chance(0.8))
    d.add(op, [x, w], group=groups, kernel_shape=kernel, **attributes)


@rule("MaxPool", "AveragePool", "LpPool")
def pool(d: Draft, op: str):
    sizes = [d.random.randint(3, 8) for _ in range(d.one_of(1, 2, 2, 3))]
    kernel, attributes = window(d, sizes)
    if op != "MaxPool" and (d.opset < 19 or op == "LpPool"):
        del attributes["dilations"]
    if op == "AveragePool":
        attributes["count_include_pad"] = d.one_of(0, 1)
    if op == "LpPool":
        attributes["p"] = d.one_of(1, 2)
    elif "pads" in attributes:
        attributes["ceil_mode"] = d.one_of(0, 0, 1)
    x = d.given(d.numbers("float32", (d.one_of(1, 2), d.random.randint(1, 5), *sizes)), False)
    d.add(op, [x], exact=op == "MaxPool", kernel_shape=kernel, **attributes)


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(d: Draft, op: str):
    d.add(op, [d.operand(REAL, rank=(3, 4))], exact=op == "GlobalMaxPool")


# Movement ------------------------------------------------------------------------------------------


@rule("Transpose")
def transpose(d: Draft, op: str):
    x = d.operand()
    order = d.random.sample(range(x.rank), x.rank)
    d.add(op, [x], exact=True, **({"perm": order} if order and d.chance(0.9) else {}))


@rule("Reshape")
def reshape(d: Draft, op: str):
    x = d.operand()
    rest, shape = x.array.size, []
    while rest > 1 and len(shape) < 4:
        part = d.random.choice([n for n in range(1, rest + 1) if rest % n == 0])
        shape.append(part)
        rest //= part
    shape.append(rest)
    if x.array.size and d.chance(0.5):
        shape[d.random.randrange(len(shape))] = -1
    d.add(op, [x, d.integers(shape)], exact=True)


@rule("Squeeze")
def squeeze(d: Draft, op: str):
    x = d.operand()
    ones = [a for a, n in enumerate(x.shape) if n == 1]
    axes = d.random.sample(ones, d.random.randint(0, len(ones)))
    if not axes and x.rank > 2:
        raise Refused("many cases to compile where sizes are open")
    d.add(op, [x, d.integers(axes) if axes else None], exact=True)


@rule("Unsqueeze")
def unsqueeze(d: Draft, op: str):
    x = d.operand(rank=(0, 1, 2, 3))
    rank = x.rank + d.random.randint(1, 2)
    axes = d.random.sample(range(rank), rank - x.rank)
    d.add(op, [x, d.integers([a - rank if d.chance(0.3) else a for a in axes])], exact=True)


@rule("Flatten")
def flatten(d: Draft, op: str):
    x = d.operand()
    d.add(op, [x], exact=True, axis=d.random.randint(-x.rank, x.rank))


@rule("Concat")
def concat(d: Draft, op: str):
    x = d.operand(least_rank=1)
    axis = d.axis(x)
    others = []
    for _ in range(d.random.randint(0, 2)):
        shape = list(x.shape)
        shape[axis] = d.size()
        others.append(d.like(x, tuple(shape)))
    d.add(op, d.random.sample([x, *others], 1 + len(others)), exact=True, axis=axis)


@rule("Split")
def split(d: Draft, op: str):
    x = d.operand(least_rank=1)
    axis, parts = d.axis(x), d.random.randint(1, 3)
    cuts = sorted(d.random.randint(0, x.shape[axis]) for _ in range(parts - 1))
    sizes = np.diff([0, *cuts, x.shape[axis]])
    d.add(op, [x, d.integers(sizes)], parts, exact=True, axis=axis)


@rule("Slice")
def slice_(d: Draft, op: str):
    x = d.operand(least_rank=1)
    axes = d.random.sample(range(x.rank), d.random.randint(1, x.rank))
    steps = [d.one_of(1, 1, 2, -1, -2) for _ in axes]
    starts = [d.random.randint(-x.shape[a] - 1, x.shape[a] + 1) for a in axes]
    ends = [d.one_of(d.random.randint(-x.shape[a] - 1, x.shape[a] + 1), 1 << 62, -(1 << 62)) for a in axes]
    d.add(op, [x, *(d.integers(v) for v in (starts, ends, axes, steps))], exact=True)


@rule("Pad")
def pad(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int32", "int64", "bool"), least_rank=1)
    mode = d.one_of("constant", "constant", "reflect", "edge")
    if mode != "constant" and 0 in x.shape:
        raise Refused("nothing to repeat")
    most = [min(2, n - 1) if mode == "reflect" else 2 for n in x.shape]
    pads = [
        d.random.randint(0 if mode != "constant" else -min(1, n // 2), m)
        for m, n in zip(most * 2, x.shape * 2, strict=True)
    ]
    fill = d.given(d.numbers(x.dtype, ()), True) if mode == "constant" and d.chance(0.5) else None
    d.add(op, [x, d.integers(pads), fill], exact=True, mode=mode)


@rule("Tile")
def tile(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int32", "int64", "bool"), least_rank=1)
    d.add(op, [x, d.integers([d.random.randint(0, 3) for _ in x.shape])], exact=True)


@rule("Expand")
def expand(d: Draft, op: str):
    x = d.operand()
    shape = [d.random.randint(1, 4) if n == 1 else d.one_of(n, 1) for n in x.shape]
    shape = [d.random.randint(1, 3), *shape] if d.chance(0.3) else shape
    d.add(op, [x, d.integers(shape)], exact=True)


@rule("Gather", "GatherElements", "GatherND")
def gather(d: Draft, op: str):
    x = d.operand(least_rank=1)
    if not x.array.size:
        raise Refused("nothing to gather")
    dtype = d.one_of("int64", "int32") if op != "GatherND" else "int64"
    if op == "GatherND":
        depth = d.random.randint(1, x.rank)
        shape = (*d.shape(d.one_of(0, 1, 2)), depth)
        places = [d.numbers("int64", shape[:-1], -n, n - 1) for n in x.shape[:depth]]
        return d.add(op, [x, d.integers(np.stack(places, -1))], exact=True)
    axis = d.axis(x)
    n = x.shape[axis]
    shape = d.shape(d.one_of(0, 1, 2))
    if op == "GatherElements":
        shape = [d.random.randint(0, m) if a != axis % x.rank else d.size() for a, m in enumerate(x.shape)]
    return d.add(op, [x, d.integers(d.numbers(dtype, shape, -n, n - 1), dtype)], exact=True, axis=axis)


@rule("ScatterElements", "ScatterND")
def scatter(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int32", "int64"), least_rank=1, bound=50)
    if not x.array.size:
        raise Refused("nothing to write to")
    ways = ("none", "add", "mul") if d.opset < 18 else ("none", "add", "mul", "max", "min")
    way = d.one_of(*ways) if d.opset >= 16 else "none"
    attributes = {"reduction": way} if way != "none" else {}
    if op == "ScatterND":
        depth = d.random.randint(1, x.rank)
        count = min(3, int(np.prod(x.shape[:depth])))
        flat = d.random.sample(range(int(np.prod(x.shape[:depth]))), count)
        places = np.stack(np.unravel_index(np.asarray(flat, "int64"), x.shape[:depth]), -1)
        return d.add(op, [x, d.integers(places), d.like(x, (count, *x.shape[depth:]))], **attributes)
    axis = d.axis(x)
    shape = [d.random.randint(1, n) for n in x.shape]
    n = x.shape[axis]
    order = np.asarray(d.random.sample(range(n), shape[axis]), "int64")
    view = [1] * x.rank
    view[axis] = -1
    places = np.broadcast_to(order.reshape(view), shape)
    return d.add(op, [x, d.integers(places), d.like(x, tuple(shape))], axis=axis, **attributes)


@rule("Shape", "Size")
def measured(d: Draft, op: str):
    x = d.operand()
    attributes = {}
    if op == "Shape" and d.opset >= 15 and d.chance(0.5):
        attributes = {"start": d.random.randint(-2, 2), "end": d.random.randint(-2, 3)}
    d.add(op, [x], exact=True, **attributes)


@rule("Trilu")
def trilu(d: Draft, op: str):
    x = d.operand(("float32", "float64", "int64"), least_rank=2)
    k = d.given(np.asarray(d.random.randint(-3, 3), "int64")) if d.chance(0.6) else None
    d.add(op, [x, k], exact=True, upper=d.one_of(0, 1))


@rule("OneHot")
def one_hot(d: Draft, op: str):
    depth = d.random.randint(1, 5)
    indices = d.integers(d.numbers("int64", d.shape(d.one_of(0, 1, 2)), -depth, depth - 1))
    values = d.given(d.numbers(d.one_of("float32", "int64"), (2,)), True)
    d.add(op, [indices, d.integers(depth), values], exact=True, axis=d.one_of(-1, 0))


@rule("DepthToSpace", "SpaceToDepth")
def blocks(d: Draft, op: str):
    block, channels = d.one_of(1, 2, 3), d.random.randint(1, 3)
    shape = (1, channels * block**2, 2, 3) if op == "DepthToSpace" else (2, channels, 2 * block, block)
    attributes = {"mode": d.one_of("DCR", "CRD")} if op == "DepthToSpace" else {}
    d.add(op, [d.given(d.numbers("float32", shape))], exact=True, blocksize=block, **attributes)


@rule("NonZero", "Compress", "Unique")
def dependent(d: Draft, op: str):
    x = d.operand(
        ("float32", "int64", "int32") if op == "NonZero" else ("float32", "int64"), exact=True, least_rank=1
    )
    if op == "NonZero":
        return d.add(op, [x], exact=True)
    axis = d.axis(x) if d.chance(0.6) else None
    attributes = {} if axis is None else {"axis": axis}
    if op == "Unique":
        if not x.array.size:
            raise Refused("nothing to compare")
        return d.add(op, [x], d.random.randint(1, 4), exact=True, sorted=d.one_of(0, 1), **attributes)
    size = x.array.size if axis is None else x.shape[axis]
    return d.add(op, [x, d.given(d.numbers("bool", (d.random.randint(0, size),)))], exact=True, **attributes)


# Normalisation, images, codes, recurrence ----------------------------------------------------------


@rule("LayerNormalization")
def layer_norm(d: Draft, op: str):
    x = d.operand(REAL, least_rank=1)
    axis = d.random.randint(-x.rank, x.rank - 1)
    shape = x.shape[axis % x.rank :]
    bias = d.like(x, shape) if d.chance(0.6) else None
    d.add(op, [x, d.like(x, shape), bias], exact=False, axis=axis, epsilon=0.1)


@rule("BatchNormalization", "InstanceNormalization")
def channel_norm(d: Draft, op: str):
    x = d.operand(("float32",), rank=(3, 4))
    if not x.array.size:
        raise Refused("onnxruntime dies of it")
    scale, bias, mean = (d.like(x, x.shape[1:2]) for _ in range(3))
    if op == "InstanceNormalization":
        return d.add(op, [x, scale, bias], exact=False, epsilon=0.1)
    variance = d.given(d.numbers("float32", x.shape[1:2], 0.5, 2), True)
    return d.add(op, [x, scale, bias, mean, variance], exact=False)


@rule("LRN")
def lrn(d: Draft, op: str):
    d.add(op, [d.operand(("float32",), rank=4)], exact=False, size=d.one_of(1, 3, 5), alpha=0.1, bias=1.5)


@rule("LpNormalization", "MeanVarianceNormalization")
def norm(d: Draft, op: str):
    if op == "LpNormalization":
        x = d.given(d.numbers("float32", d.shape(d.one_of(1, 2, 3)), 0.5, 3))
        return d.add(op, [x], exact=False, axis=d.axis(x), p=d.one_of(1, 2))
    return d.add(op, [d.given(d.numbers("float32", (2, 3, 4, 5)))], exact=False)


@rule("Resize")
def resize(d: Draft, op: str):
    x = d.given(
        d.numbers("float32", (1, d.random.randint(1, 3), d.random.randint(2, 6), d.random.randint(2, 6)))
    )
    mode = d.one_of("nearest", "linear", "cubic")
    where = d.one_of("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    sizes = [*x.shape[:2], d.random.randint(1, 9), d.random.randint(1, 9)]
    attributes = {"mode": mode, "coordinate_transformation_mode": where}
    if mode == "nearest":
        attributes["nearest_mode"] = d.one_of("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    d.add(op, [x, None, None, d.integers(sizes)], exact=mode == "nearest", **attributes)


@rule("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
def codes(d: Draft, op: str):
    if op == "DynamicQuantizeLinear":
        x = d.operand(("float32",), exact=True, least_rank=1)
        if not x.array.size:
            raise Refused("no range")
        return d.add(op, [x], 3, exact=False)
    coded = d.one_of("int8", "uint8")
    x = (
        d.operand(("float32",), exact=True, least_rank=1)
        if op == "QuantizeLinear"
        else d.operand((coded,), least_rank=1)
    )
    axis = d.axis(x)
    shape = () if d.chance(0.5) else (x.shape[axis],)
    scale = d.given(np.asarray(2.0 ** np.round(d.numbers("float32", shape, -4, 1)), "float32"))
    zero = d.given(d.numbers(coded, shape, 0, 20)) if d.chance(0.7) or coded == "int8" else None
    return d.add(op, [x, scale, zero], exact=True, axis=axis)


@rule("MatMulInteger")
def matmul_integer(d: Draft, op: str):
    m, k, n = d.size(), d.random.randint(1, 40), d.size(20)
    a = d.given(d.numbers(d.one_of("uint8", "int8"), (m, k), -128, 127), False)
    w = d.given(d.numbers("int8", (k, n), -128, 127))
    zeros = [d.given(np.asarray(3, v.dtype)) if d.chance(0.6) else None for v in (a, w)]
    d.add(op, [a, w, *zeros])


@rule("LSTM", "GRU", "RNN")
def recurrent(d: Draft, op: str):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    direction = d.one_of("forward", "reverse", "bidirectional")
    count, steps, batch = (
        (2 if direction == "bidirectional" else 1),
        d.random.randint(1, 4),
        d.random.randint(1, 3),
    )
    width, hidden = d.random.randint(1, 5), d.one_of(1, 3, 8, 17)
    x = d.given(d.numbers("float32", (steps, batch, width)), False)
    w = d.given(d.numbers("float32", (count, gates * hidden, width), -1, 1), True)
    r = d.given(d.numbers("float32", (count, gates * hidden, hidden), -1, 1), True)
    bias = d.given(d.numbers("float32", (count, 2 * gates * hidden), -1, 1), True) if d.chance(0.6) else None
    lengths = d.given(d.numbers("int32", (batch,), 1, steps)) if d.chance(0.3) else None
    h0 = d.given(d.numbers("float32", (count, batch, hidden), -1, 1)) if d.chance(0.4) else None
    attributes = {"linear_before_reset": d.one_of(0, 1)} if op == "GRU" else {}
    d.add(op, [x, w, r, bias, lengths, h0], 2, direction=direction, hidden_size=hidden, **attributes)


def grow(d: Draft, most: int, names: Sequence[str]) -> None:
    """Up to `most` nodes by the rules of these names, chosen at random; one that finds no operands gives way to
    another."""
    wanted, tries = d.random.randint(1, most), 0
    while len(d.nodes) < wanted and tries < 8 * most:
        tries += 1
        before = len(d.values), len(d.inputs), len(d.tensors)
        op = d.random.choice(names)
        try:
            RULES[op](d, op)
        except (Refused, OverflowError, IndexError):
            del d.values[before[0] :]
            del d.inputs[before[1] :]
            del d.tensors[before[2] :]


__all__ = ["RULES", "Value", "grow"]
