"""Control flow of ONNX: If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import onnx

from tallow.dim import Dim, maximum, symbol, symbols
from tallow.dtype import bool_, i64
from tallow.errors import GraphError, ImportFailed
from tallow.graph import VARIES, Graph, TensorType, Value, replace_sizes, type_symbols
from tallow.ops.control import join_types
from tallow_importers.onnx.context import Arm, Context, Diverges, NodeView, RanksDiffer, Unsupported
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.problems import Problems
from tallow_importers.onnx.registry import onnx_op

UNROLLED = 64  # entries of a batch whose scans are written one after the other
MOST_FORKS = 16  # how often the rest of a graph may be written twice


@onnx_op("If")
def if_(context: Context, node: NodeView):
    condition = context.array(node.input(0))
    then, otherwise = node.attribute("then_branch"), node.attribute("else_branch")
    if condition is not None:
        return context.inline(then if bool(condition.reshape(-1)[0]) else otherwise)
    flag = context.builder.reshape(node.input(0), shape=()) if node.input(0).rank else node.input(0)
    try:
        yes, no = _regions([lambda: context.region(then), lambda: context.region(otherwise)], context)
        return emit_if(context, flag, yes, no)
    except (RanksDiffer, GraphError) as error:

        def arm(proto):
            return lambda builder: context.inside(builder).inline(proto)

        raise Diverges(flag, (arm(then), arm(otherwise)), str(error)) from None


def emit_if(context: Context, flag: Value, yes: Graph, no: Graph) -> tuple[Value, ...]:
    """A branch with results of types that cover both regions'; GraphError if none do."""
    types, fresh = [], []
    local = _local(yes) | _local(no)  # sizes bound inside one branch mean nothing outside it
    for a, b in zip(yes.outputs, no.outputs, strict=True):
        joined, names = join_types(a.type, b.type, context.fresh_name)
        joined, more = _rename(context, joined, local)
        types.append(joined)
        fresh += [*names, *more]
    extra = {"defines": tuple(fresh)} if fresh else {}
    result = context.builder.emit("if", flag, then=yes, otherwise=no, types=tuple(types), **extra)
    return result if isinstance(result, tuple) else (result,)


def fork(context: Context, split: Diverges) -> tuple[Value, ...]:
    """The results of a graph whose nodes from `split` on are written twice, once for each condition."""
    try:
        return _forked(context, split)
    except GraphError as error:
        where = context.builder.location
        raise RanksDiffer(f"{where}: {error}{_hint(context.importer)}") from None


def _forked(context: Context, split: Diverges) -> tuple[Value, ...]:
    """As fork; GraphError where neither condition can be."""
    importer, where = context.importer, context.builder.location
    importer.forks += 1
    if importer.forks > MOST_FORKS:
        raise RanksDiffer(f"{where}: {split.reason} in more than {MOST_FORKS} combinations{_hint(importer)}")

    def written(arm: Callable, holds: bool) -> Graph:
        builder = context.builder.region("continued")
        builder.arrays[split.condition] = np.array(holds)
        try:
            values = arm(builder)
        except Diverges as again:
            values = _forked(context.inside(builder), again)
        if any(v is None for v in values):
            raise Unsupported("a subgraph with unsupported nodes")
        return builder.finish(values)

    writers = [partial(written, arm, holds) for arm, holds in zip(split.arms, (True, False), strict=True)]
    return emit_if(context, split.condition, *_regions(writers, context))


def as_declared(proto: onnx.GraphProto, arm: Arm, builder: KnownBuilder) -> list[Value | None]:
    """What `arm` writes; GraphError if a result has not the rank that the graph declares for it."""
    try:
        values = arm(builder)
    except Diverges as split:
        raise split.followed(partial(as_declared, proto)) from None
    for info, value in zip(proto.output, values, strict=True):
        declared = info.type.tensor_type if info.type.HasField("tensor_type") else None
        if value is None or declared is None or not declared.HasField("shape"):
            continue
        if isinstance(value.type, TensorType) and value.rank != len(declared.shape.dim):
            raise GraphError(
                f'output "{info.name}" would be {value.type}: the model declares rank {len(declared.shape.dim)}'
            )
    return values


def _hint(importer) -> str:
    sizes = sorted({s for v in importer.inputs for s in type_symbols(v.type)})
    return f"; the condition may be known once sizes are fixed with dims: {', '.join(sizes)}" if sizes else ""


def _regions(writers: Sequence[Callable[[], Graph]], context: Context) -> list[Graph]:
    """Both branches as regions. One that cannot be typed for the sizes at hand fails when it is taken."""
    made, errors = [], []
    for write in writers:
        region, error = _written(write, context.importer.problems)
        made.append(region)
        errors += [] if error is None else [error]
    if len(errors) == len(writers):
        raise errors[0]
    if errors:
        sound = next(region for region in made if region is not None)
        builder = context.builder.region("impossible")
        types = tuple(v.type for v in sound.outputs)
        failed = builder.emit("fail", types=types, message=str(errors[0]))
        region = builder.finish(list(failed) if isinstance(failed, tuple) else [failed])
        made = [region if m is None else m for m in made]
    return made


def _written(write: Callable[[], Graph], problems: Problems) -> tuple[Graph | None, Exception | None]:
    """A region, or what is wrong with it. What its nodes break is wrong where it is taken alone, and no
    problem of the model; what Tallow does not support in it is."""
    known = dict(problems.faults)
    region = error = None
    try:
        region = write()
    except (ImportFailed, GraphError) as raised:
        error = raised
    except Unsupported:
        if problems.faults.keys() == known.keys():
            raise
    found = [fault for fault in problems.faults if fault not in known]
    problems.faults = known
    if found and error is None:
        region, error = None, GraphError(found[0])
    return region, error


def _local(graph) -> set[str]:
    return {name for inner in graph.nodes for name in inner.defines}


def _rename(context: Context, type_, local: set[str]):
    """The type outside a region: sizes bound inside it get fresh names, or vary in a sequence."""

    def is_local(dim) -> bool:
        return not isinstance(dim, int) and bool(set(symbols(dim)) & local)

    if not isinstance(type_, TensorType):
        return replace_sizes(type_, lambda dim: VARIES if is_local(dim) else dim), ()
    names = [context.fresh_name() for dim in type_.shape if is_local(dim)]
    fresh = map(symbol, names)
    return replace_sizes(type_, lambda dim: next(fresh) if is_local(dim) else dim), tuple(names)


def _widen(context: Context, have, got, changing: list[str]):
    """The type that covers what goes into an iteration and what comes out; a size known to change stays."""
    joined, names = join_types(have, got, context.fresh_name)
    if not isinstance(have, TensorType):
        return joined, names
    kept = [old if str(old) in changing else new for old, new in zip(have.shape, joined.shape, strict=True)]
    fresh = {str(d) for d in kept}
    return TensorType(have.dtype, tuple(kept)), tuple(n for n in names if n in fresh)


def emit_loop(
    context: Context, trips: Value, condition: Value, carried: list[Value], body_of
) -> tuple[Value, ...]:
    """A loop whose carried values may change shape: `body_of(types)` imports the body for given types
    of the carried values, with sizes that change made symbols until the types no longer move. Its scanned
    results have as many rows as sizes say, unless a condition may end it or the number is data."""
    trips, most = _trips(context, trips)
    types = [v.type for v in carried]
    changing: list[str] = []
    for _ in range(8):
        body = body_of(types)
        results = [v.type for v in body.outputs[1 : 1 + len(types)]]
        new, moved = [], False
        for have, got in zip(types, results, strict=True):
            joined, names = _widen(context, have, _rename(context, got, _local(body))[0], changing)
            changing += names
            moved |= joined != have
            new.append(joined)
        if not moved:
            break
        types = new
    else:
        context.unsupported("a loop whose values change shape in a way that does not settle")
    local = _local(body) | set(changing)
    finals, fresh = [], []
    for type_ in types:
        outside, names = _rename(context, type_, local)
        finals.append(outside)
        fresh += names
    rows = maximum(most, 0) if most is not None and _is_endless(context, condition, body) else None
    scanned = len(body.outputs) > 1 + len(types)
    if rows is None:
        rows = symbol(context.fresh_name())
        fresh += [str(rows)] if scanned else []
    scans = []
    for value in body.outputs[1 + len(types) :]:
        outside, names = _rename(context, value.type, local)
        fresh += names
        scans.append(TensorType(outside.dtype, (rows, *outside.shape)))
    extra = {"defines": tuple(fresh)} if fresh else {}
    result = context.builder.emit(
        "loop", trips, condition, *carried, body=body, types=(*finals, *scans), **extra
    )
    return result if isinstance(result, tuple) else (result,)


def _trips(context: Context, trips: Value) -> tuple[Value, Dim | None]:
    """The number of iterations, written as a size where sizes tell it, and what it is then."""
    known = context.dims(trips)
    if known is None or known[0] is None:
        return trips, None
    return (trips if isinstance(known[0], int) else context.size(known[0])), known[0]


def _is_endless(context: Context, condition: Value, body: Graph) -> bool:
    """Whether no condition ends a loop before its last iteration."""
    constants = {node.output: node["value"] for node in body.nodes if node.op == "constant"}

    def holds(value: Value) -> bool:
        array = constants.get(value, context.array(value))
        return array is not None and bool(np.all(array))

    return holds(condition) and (body.outputs[0] is body.inputs[1] or holds(body.outputs[0]))


@onnx_op("Loop")
def loop(context: Context, node: NodeView):
    b, proto = context.builder, node.attribute("body")
    trips = (
        b.scalar(2**62, i64)
        if node.input(0) is None
        else b.cast(b.reshape(node.input(0), shape=()), dtype=i64)
    )
    condition = b.scalar(True, bool_) if node.input(1) is None else b.reshape(node.input(1), shape=())
    names = [i.name for i in proto.input]
    head = [TensorType(i64, ()), TensorType(bool_, ())]

    def body_of(types):
        return context.region(proto, list(zip(names, [*head, *types], strict=True)))

    return emit_loop(context, trips, condition, list(node.inputs[2:]), body_of)


@onnx_op("Scan", since=9)
def scan(context: Context, node: NodeView):
    """A loop that takes slices of its scan inputs and stacks its scan outputs."""
    proto, count = node.attribute("body"), node.attribute("num_scan_inputs")
    b = context.builder
    states, sequences = list(node.inputs[: len(node.inputs) - count]), node.inputs[len(node.inputs) - count :]
    in_axes = node.attribute("scan_input_axes") or [0] * count
    backwards = node.attribute("scan_input_directions") or [0] * count
    in_axes = [context.axis(a, s.rank) for a, s in zip(in_axes, sequences, strict=True)]
    length = sequences[0].shape[in_axes[0]]
    body_names = [i.name for i in proto.input]
    outs = len(proto.output) - len(states)

    def body_of(types):
        inner = onnx.GraphProto()
        inner.CopyFrom(proto)
        return _scan_body(context, inner, body_names, states, sequences, in_axes, backwards, types)

    results = emit_loop(context, context.size(length), b.scalar(True, bool_), states, body_of)
    finals, scans = list(results[: len(states)]), results[len(states) :]
    out_axes = node.attribute("scan_output_axes") or [0] * outs
    flipped = node.attribute("scan_output_directions") or [0] * outs
    for value, axis, flip in zip(scans, out_axes, flipped, strict=True):
        if flip:
            starts = (value.shape[0] - 1, *(0,) * (value.rank - 1))
            value = b.slice(value, starts=starts, steps=(-1, *(1,) * (value.rank - 1)), shape=value.shape)
        axis = context.axis(axis, value.rank)
        order = [*range(1, value.rank)]
        order.insert(axis, 0)
        finals.append(value if axis == 0 else b.transpose(value, permutation=tuple(order)))
    return finals


def _scan_body(context, proto, names, states, sequences, axes, backwards, types):
    """The body as a loop body: iteration and condition in, slices taken inside."""
    builder = context.builder.region("scan")
    inside = Context(builder, context.importer, dict(context.scope), context.folder)
    iteration = Value(builder.unique("iteration"), TensorType(i64, ()))
    going = Value(builder.unique("going"), TensorType(bool_, ()))
    builder.inputs += [iteration, going]
    for name, type_ in zip(names[: len(states)], types, strict=True):
        value = Value(builder.unique(name), type_)
        builder.inputs.append(value)
        inside.scope[name] = value
    for name, sequence, axis, back in zip(names[len(states) :], sequences, axes, backwards, strict=True):
        at = iteration
        if back:
            at = builder.sub(builder.sub(inside.size(sequence.shape[axis]), 1), iteration)
        inside.scope[name] = builder.gather(sequence, at, axis=axis)
    results = inside.inline(proto)
    return builder.finish([builder.scalar(True, bool_), *results])


@onnx_op("Scan", since=8)
def scan_8(context: Context, node: NodeView):
    """The first Scan had a batch in front of everything: each of its entries is scanned by itself."""
    lengths, *operands = node.inputs
    batch = operands[0].shape[0]
    if lengths is not None or not isinstance(batch, int) or not 0 < batch <= UNROLLED:
        context.unsupported(f"sequence lengths, or a batch that is not known to be 1 to {UNROLLED}")
    attributes = {"body": node.attribute("body"), "num_scan_inputs": node.attribute("num_scan_inputs")}
    attributes["scan_input_directions"] = node.attribute("directions")
    b = context.builder
    columns = []
    for entry in range(batch):
        at = b.scalar(entry, i64)
        given = [b.gather(v, at, axis=0) for v in operands]
        columns.append(scan(context, NodeView(node.proto, given, attributes, node.opset)))
    opened = [[b.reshape(v, shape=(1, *v.shape)) for v in parts] for parts in zip(*columns, strict=True)]
    return [b.concat(*parts, axis=0) for parts in opened]
