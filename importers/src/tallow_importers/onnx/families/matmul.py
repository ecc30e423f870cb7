"""Matrix products of ONNX: MatMul, Gemm, Einsum."""

from __future__ import annotations

from tallow.dim import product
from tallow.dtype import i64
from tallow.graph import Value
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.registry import onnx_op


def matmul_any_rank(context: Context, a: Value, b: Value) -> Value:
    """numpy's matmul, vectors included."""
    build = context.builder
    row, column = a.rank == 1, b.rank == 1
    left = build.reshape(a, shape=(1, a.shape[0])) if row else a
    right = build.reshape(b, shape=(b.shape[0], 1)) if column else b
    result = build.matmul(left, right)
    if row or column:
        shape = list(result.shape)
        if column:
            del shape[-1]
        if row:
            del shape[-1 if column else -2]
        result = build.reshape(result, shape=tuple(shape))
    return result


@onnx_op("MatMul")
def matmul(context: Context, node: NodeView) -> Value:
    return matmul_any_rank(context, *node.inputs)


@onnx_op("Gemm")
def gemm(context: Context, node: NodeView) -> Value:
    a, b, c = node.input(0), node.input(1), node.input(2)
    build = context.builder
    if node.attribute("transA", 0):
        a = build.transpose(a, permutation=(1, 0))
    if node.attribute("transB", 0):
        b = build.transpose(b, permutation=(1, 0))
    result = build.matmul(a, b)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if alpha != 1.0:
        result = build.mul(result, alpha)
    if c is not None and beta != 0.0:
        result = build.add(result, c if beta == 1.0 else build.mul(c, beta))
    return result


@onnx_op("Einsum")
def einsum(context: Context, node: NodeView) -> Value:
    equation = node.attribute("equation").replace(" ", "")
    terms, arrow, output = equation.partition("->")
    inputs = terms.split(",")
    operands = list(node.inputs)
    if len(inputs) != len(operands):
        context.unsupported(f"equation {equation!r} for {len(operands)} operands")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    inputs, ellipsis = _spell_ellipsis(inputs, operands, spare)
    if not arrow:
        letters = "".join(inputs)
        output = ("..." if ellipsis else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1 and c not in ellipsis)
        )
    output = output.replace("...", ellipsis)
    labels = []
    for position, (letters, value) in enumerate(zip(inputs, operands, strict=True)):
        letters, value = _diagonals(context, letters, value)
        others = "".join(inputs[position + 1 :]) + "".join(label for label, _ in labels) + output
        labels.append(_drop(context, letters, value, others))
    while len(labels) > 1:
        (first, a), (second, b), rest = labels[0], labels[1], labels[2:]
        later = output + "".join(label for label, _ in rest)
        labels = [_pair(context, first, a, second, b, later), *rest]
    letters, value = labels[0]
    letters, value = _drop(context, letters, value, output)
    return _arrange(context, letters, value, output)


def _spell_ellipsis(inputs: list[str], operands: list[Value], spare: list[str]) -> tuple[list[str], str]:
    """Ellipses written as letters, aligned on the right."""
    longest = max(
        (v.rank - len(t) + 3 for t, v in zip(inputs, operands, strict=True) if "..." in t), default=0
    )
    letters = "".join(spare[:longest])
    spelled = []
    for term, value in zip(inputs, operands, strict=True):
        if "..." in term:
            count = value.rank - len(term) + 3
            term = term.replace("...", letters[longest - count :] if count else "")
        spelled.append(term)
    return spelled, letters


def _diagonals(context: Context, letters: str, value: Value) -> tuple[str, Value]:
    """A letter that comes twice takes the diagonal: elements where its axes agree, summed over one."""
    b = context.builder
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first, second = letters.index(letter), letters.rindex(letter)
            lines = [
                b.iota(
                    shape=tuple(value.shape[axis] if a == axis else 1 for a in range(value.rank)),
                    axis=axis,
                    dtype=i64,
                )
                for axis in (first, second)
            ]
            kept = b.select(b.eq(*lines), value, b.scalar(0, value.dtype))
            value = b.reduce(kept, function="add", axes=(second,), keepdims=False)
            letters = letters[:second] + letters[second + 1 :]
    return letters, value


def _drop(context: Context, letters: str, value: Value, needed: str) -> tuple[str, Value]:
    """Axes that nothing else mentions are summed away."""
    axes = tuple(i for i, c in enumerate(letters) if c not in needed)
    if not axes:
        return letters, value
    return "".join(c for c in letters if c in needed), context.builder.reduce(
        value, function="add", axes=axes, keepdims=False
    )


def _arrange(context: Context, letters: str, value: Value, wanted: str) -> Value:
    """Axes in the wanted order, missing ones of size 1."""
    b = context.builder
    present = [c for c in wanted if c in letters]
    if "".join(present) != letters:
        value = b.transpose(value, permutation=tuple(letters.index(c) for c in present))
    if len(present) != len(wanted):
        sizes = dict(zip(present, value.shape, strict=True))
        value = b.reshape(value, shape=tuple(sizes.get(c, 1) for c in wanted))
    return value


def _pair(context: Context, first: str, a: Value, second: str, b: Value, later: str) -> tuple[str, Value]:
    """Two operands contracted by one batched matrix product."""
    build = context.builder
    shared = [c for c in first if c in second]
    batch = [c for c in shared if c in later]
    summed = [c for c in shared if c not in later]
    left = [c for c in first if c not in shared]
    right = [c for c in second if c not in shared]
    sizes = dict(zip(second, b.shape, strict=True)) | {
        c: d for c, d in zip(first, a.shape, strict=True) if d != 1 or c not in second
    }
    if not summed:
        letters = "".join([*batch, *left, *right])
        return letters, build.mul(_arrange(context, first, a, letters), _arrange(context, second, b, letters))
    x = _arrange(context, first, a, "".join([*batch, *left, *summed]))
    y = _arrange(context, second, b, "".join([*batch, *summed, *right]))
    k = product(sizes[c] for c in summed)
    x = build.broadcast(x, shape=(*x.shape[: len(batch) + len(left)], *(sizes[c] for c in summed)))
    y = build.broadcast(
        y, shape=(*y.shape[: len(batch)], *(sizes[c] for c in summed), *y.shape[len(batch) + len(summed) :])
    )
    x = build.reshape(x, shape=(*x.shape[: len(batch)], product(sizes[c] for c in left), k))
    y = build.reshape(y, shape=(*y.shape[: len(batch)], k, product(sizes[c] for c in right)))
    result = build.matmul(x, y)
    letters = "".join([*batch, *left, *right])
    return letters, build.reshape(result, shape=tuple(sizes[c] for c in letters))
