"""Reductions, softmax and normalisations along lines."""

from __future__ import annotations

from collections.abc import Sequence

from tallow.dim import product
from tallow.dtype import i64
from tallow.kernel import build
from tallow.kernel.build import add, call, const, logical_and, minimum, select, sub
from tallow.kernel.grammar import Alloc, Buffer, Expr, For, If, Load, Stmt, Store, Update
from tallow.lower.concat import lower_concat as common_concat
from tallow.lower.group import Declined, Group, KernelCall
from tallow.lower.inline import Inliner
from tallow.lower.pointwise import count_flops
from tallow.lower.reduce import accumulator, identity, lower_arg, lower_reduce
from tallow.lower.workgroup.elements import over_elements
from tallow.lower.workgroup.line import Line
from tallow.target import Target


def lower_reduction(group: Group, target: Target) -> Sequence[KernelCall]:
    """reduce: along lines where the last axis is among the reduced ones, else a thread for each result."""
    node = group.root
    source, axes = node.inputs[0], sorted(node["axes"])
    if target.vector_bytes:
        return lower_reduce(group, target)
    if source.rank - 1 not in axes and source.rank > len(axes):
        return [_across(group, target, axes)]
    line = Line(group, target, source, axes)
    kind = accumulator(node.output.dtype)
    found = line.fold(node["function"], lambda body, index: line.read(body, index), kind)
    line.once(lambda body: _write(line.inliner, body, group, axes, line.index(body, const(0)), found))
    return line.finish("reduce", 1, source.type.size + count_flops(group))


def _write(
    inliner: Inliner, body: list[Stmt], group: Group, axes: Sequence[int], index: Sequence[Expr], found: Expr
) -> None:
    """The group's results at the kept part of `index`."""
    node = group.root
    at = tuple(const(0) if a in axes else e for a, e in enumerate(index) if node["keepdims"] or a not in axes)
    scope = inliner.scope(body, {node.output: lambda _: build.cast(found, node.output.dtype)})
    for value in group.outputs:
        scope.store(value, value.shape, at, scope.read(value, at))


def _across(group: Group, target: Target, axes: Sequence[int]) -> KernelCall:
    """Each thread folds one result; its neighbours read what lies beside."""
    node, inliner = group.root, Inliner(group)
    source = node.inputs[0]
    kept = [axis for axis in range(source.rank) if axis not in axes]
    kind, function = accumulator(node.output.dtype), node["function"]

    def write(body: list[Stmt], place: tuple[Expr, ...]) -> None:
        total = Buffer(inliner.fresh("total"), kind, 1, "register", True)
        body += [Alloc(total), Store(total, const(0), const(identity(function, kind), kind))]
        loops = {axis: inliner.loop("r") for axis in axes}
        index = {**dict(zip(kept, place, strict=True)), **loops}
        inner: list[Stmt] = []
        at = tuple(index[axis] for axis in range(source.rank))
        element = inliner.scope(inner).read(source, at)
        inner.append(Update(total, const(0), function, build.cast(element, kind)))
        for axis in reversed(axes):
            inner = [For(loops[axis], inliner.size(source.shape[axis]), tuple(inner))]
        body += inner
        _write(inliner, body, group, axes, at, Load(total, const(0)))

    shape = [source.shape[axis] for axis in kept]
    return over_elements(inliner, target, "reduce", shape, write, 1, source.type.size + count_flops(group))


def lower_extreme(group: Group, target: Target) -> Sequence[KernelCall]:
    """argmax and argmin along lines; NaN counts as best."""
    node = group.root
    source, axis = node.inputs[0], node["axis"]
    if target.vector_bytes:
        return lower_arg(group, target)
    line = Line(group, target, source, (axis,))
    zero, inliner = const(0), line.inliner
    best = Buffer(inliner.fresh("best"), source.dtype, 1, "register", True)
    place = Buffer(inliner.fresh("place"), i64, 1, "register", True)
    # A thread beyond the end begins with the last element, as another does.
    first = line.let(minimum(line.lane, sub(inliner.size(source.shape[axis]), const(1))), "first")
    element = inliner.scope(line.statements).read(source, line.index(line.statements, first))
    line.statements += [Alloc(best), Alloc(place), Store(best, zero, element), Store(place, zero, first)]

    def look(body: list[Stmt], index: tuple[Expr, ...]) -> None:
        value = inliner.let(body, inliner.scope(body).read(source, index), "e")
        wins = _beats(node, [value, index[axis]], [Load(best, zero), Load(place, zero)])
        body.append(If(wins, (Store(best, zero, value), Store(place, zero, index[axis]))))

    line.each(look)

    def join(one: list[Expr], other: list[Expr]) -> list[Expr]:
        wins = _beats(node, other, one)
        return [select(wins, b, a) for a, b in zip(one, other, strict=True)]

    _, found = line.meet([best, place], join)
    line.once(lambda body: _write(inliner, body, group, (axis,), line.index(body, zero), found))
    return line.finish(node.op, 2, source.type.size + count_flops(group))


def _beats(node, a: Sequence[Expr], b: Sequence[Expr]) -> Expr:
    """Whether (value, place) a is rather the result than b: the greater, and of equals the first or last."""

    def above(x: Expr, y: Expr) -> Expr:
        more = call("gt" if node.op == "argmax" else "lt", x, y)
        if not x.dtype.is_float:
            return more
        return call("or", more, logical_and(call("isnan", x), call("not", call("isnan", y))))

    earlier = call("gt" if node.attributes.get("last", False) else "lt", a[1], b[1])
    return call("or", above(a[0], b[0]), logical_and(call("not", above(b[0], a[0])), earlier))


def lower_softmax(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """softmax and log_softmax: the maximum, then the sum of exponentials, then the results."""
    node = group.root
    source = node.inputs[0]
    if not source.rank or (target.vector_bytes and node["axis"] != source.rank - 1):
        return Declined("softmax along an axis that is not the last")
    line = Line(group, target, source, (node["axis"],))
    top = line.fold("max", line.read)
    plain = node.op == "softmax"
    kept = line.vectors and plain and not group.epilogue and node.output.dtype == line.kind
    result = line.inliner.buffer(node.output, writable=True) if kept else None

    def power(body: list[Stmt], index: tuple[Expr, ...]) -> Expr:
        e = call("exp", call("sub", line.read(body, index), top))
        if kept:
            e = line.inliner.let(body, e, "e")
            body.append(Store(result, line.inliner.linear(node.output.shape, index), e))
        return e

    total = line.fold("add", power)
    share = line.let(call("div", const(1, line.kind), total) if plain else call("log", total), "share")

    def write(body: list[Stmt], index: tuple[Expr, ...]) -> None:
        if kept:
            place = line.inliner.linear(node.output.shape, index)
            body.append(Store(result, place, call("mul", Load(result, place), share)))
            return
        below = call("sub", line.read(body, index), top)
        done = call("mul", call("exp", below), share) if plain else call("sub", below, share)
        _finish(line, body, index, done)

    line.each_own(write)
    return line.finish(node.op, 12, source.type.size * 12)


def _finish(line: Line, body: list[Stmt], index: tuple[Expr, ...], value: Expr) -> None:
    """An element of the root's result through the epilogue into the results."""
    root = line.group.root.output
    done = line.inliner.let(body, build.cast(value, root.dtype), "y")
    scope = line.inliner.scope(body, {root: lambda _: done})
    for result in line.group.outputs:
        scope.store(result, result.shape, index, scope.read(result, index))


def lower_norm(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
    """layer_norm and rms_norm: the mean, the variance around it, then results with scale and shift."""
    node = group.root
    source, axis = node.inputs[0], node["axis"]
    if group.prologue:
        return Declined("a normalisation of an operand not in memory")
    if target.vector_bytes and axis != source.rank - 1:
        return Declined("a normalisation of more than the last axis")
    line = Line(group, target, source, range(axis, source.rank))
    kind = line.kind
    size = line.let(build.cast(line.inliner.size(product(line.tail)), kind), "size")
    centred = node.op == "layer_norm"
    mean: Expr = const(0, kind)
    if centred:
        mean = line.let(call("div", line.fold("add", line.read), size), "mean")

    def square(body: list[Stmt], index: tuple[Expr, ...]) -> Expr:
        d = line.inliner.let(body, call("sub", line.read(body, index), mean), "d")
        return call("mul", d, d)

    variance = call("div", line.fold("add", square), size)
    spread = call("sqrt", call("add", variance, const(node["epsilon"], kind)))
    factor = line.let(call("div", const(1, kind), spread), "factor")

    def write(body: list[Stmt], index: tuple[Expr, ...]) -> None:
        scope = line.inliner.scope(body)
        value = call("mul", call("sub", line.read(body, index), mean), factor)
        for operand, op in zip(node.inputs[1:], ("mul", "add"), strict=False):
            at = index[len(index) - operand.rank :]
            at = tuple(const(0) if d == 1 else i for d, i in zip(operand.shape, at, strict=True))
            value = call(op, value, build.cast(scope.read(operand, at), kind))
        _finish(line, body, index, value)

    line.each_own(write)
    return line.finish("norm", 8, source.type.size * 8)


def lower_concat(group: Group, target: Target) -> Sequence[KernelCall]:
    """concat: one kernel for each operand, a thread for each element."""
    if target.vector_bytes:
        return common_concat(group, target)
    node, offset, calls = group.root, 0, []
    axis, result = node["axis"], node.output
    for operand in node.inputs:
        inliner = Inliner(group)

        def write(body: list[Stmt], index, operand=operand, offset=offset, inliner=inliner) -> None:
            place = list(index)
            place[axis] = add(index[axis], inliner.size(offset))
            scope = inliner.scope(body)
            scope.store(result, result.shape, tuple(place), scope.read(operand, index))

        calls.append(over_elements(inliner, target, "concat", operand.shape, write, 1, 0))
        offset = offset + operand.shape[axis]
    return [c for c in calls if c.grid != 0] or calls[:1]
