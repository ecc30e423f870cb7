"""Sequences laid beside each other: warped in time, or matched to go on from (com.microsoft)."""

from __future__ import annotations

import math

from tallow.dim import maximum
from tallow.dtype import bool_, i32, i64
from tallow.graph import TensorType, Value
from tallow_importers.onnx.axes import held, read_shape
from tallow_importers.onnx.context import Context, NodeView
from tallow_importers.onnx.families.control import emit_loop
from tallow_importers.onnx.families.microsoft.attention import part
from tallow_importers.onnx.families.microsoft.fused import MS
from tallow_importers.onnx.known import KnownBuilder
from tallow_importers.onnx.registry import onnx_op


def _body(context: Context, types) -> tuple[KnownBuilder, list[Value]]:
    """A builder of a loop's body, and its inputs: the iteration, and carried values of these types."""
    inner = context.builder.region("step")
    step, going = (Value(inner.unique(n), TensorType(t, ())) for n, t in (("step", i64), ("going", bool_)))
    carried = [Value(inner.unique("carried"), t) for t in types]
    inner.inputs += [step, going, *carried]
    return inner, [step, *carried]


@onnx_op("DynamicTimeWarping", domain=MS)
def dynamic_time_warping(context: Context, node: NodeView) -> Value:
    """The cheapest path through a table of costs, [2, steps]."""
    b, x = context.builder, node.input(0)
    if x.rank not in (2, 3) or (x.rank == 3 and x.shape[0] != 1):
        context.unsupported(f"costs {x.type}: [rows, columns] or [1, rows, columns]")
    rows, columns = x.shape[-2:]
    moves = _moves(context, b.reshape(x, shape=(rows * columns,)), rows, columns)
    path, count = _traced(context, moves, rows, columns)
    at = b.sub(b.sub(context.size(count), 1), b.iota(shape=(count,), axis=0, dtype=i64))
    return b.transpose(b.gather(path, at, axis=0), permutation=(1, 0))


def _moves(context: Context, costs: Value, rows, columns) -> Value:
    """Where the cheapest path to each place comes from, i32 [rows + columns - 1, rows], by diagonals:
    0 from the row and the column before, 1 from the row before, 2 from the column before."""
    b = context.builder
    row = b.iota(shape=(rows,), axis=0, dtype=i64)
    never = b.broadcast(b.scalar(math.inf, costs.dtype), shape=(rows,))

    def body(types):
        inner, (step, last, before) = _body(context, types)
        edge = inner.reshape(inner.scalar(math.inf, costs.dtype), shape=(1,))

        def from_above(line: Value) -> Value:
            return part(context.inside(inner), inner.concat(edge, line, axis=0), 0, 0, rows)

        column = inner.sub(step, row)
        start = inner.and_(inner.eq(row, 0), inner.eq(column, 0))
        both = inner.select(start, inner.scalar(0, costs.dtype), from_above(before))
        above, beside = from_above(last), last
        first = inner.and_(inner.lt(both, above), inner.lt(both, beside))
        second = inner.and_(inner.lt(above, both), inner.lt(above, beside))
        best = inner.select(first, both, inner.select(second, above, beside))
        move = inner.select(first, 0, inner.select(second, inner.scalar(1, i32), 2))
        place = inner.add(inner.mul(row, context.inside(inner).size(columns)), column)
        place = held(context.inside(inner), place, costs.shape[0])
        total = inner.add(best, inner.gather(costs, place, axis=0))
        valid = inner.and_(inner.ge(column, 0), inner.lt(column, context.inside(inner).size(columns)))
        total = inner.select(valid, total, inner.scalar(math.inf, costs.dtype))
        return inner.finish([inner.scalar(True, bool_), total, last, move])

    trips = context.size(maximum(rows + columns - 1, 0))
    return emit_loop(context, trips, b.scalar(True, bool_), [never, never], body)[2]


def _traced(context: Context, moves: Value, rows, columns):
    """Rows and columns of the path from its end on, i32 [longest, 2], and how long it is."""
    b = context.builder

    def body(types):
        inner, (_, row, column) = _body(context, types)
        inside = inner.and_(inner.ge(row, 0), inner.ge(column, 0))
        diagonal = held(context.inside(inner), inner.add(row, column), moves.shape[0])
        moves_there = inner.gather(moves, diagonal, axis=0)
        move = inner.gather(moves_there, held(context.inside(inner), row, rows), axis=0)
        here = inner.concat(*(inner.reshape(v, shape=(1,)) for v in (row, column)), axis=0)
        up, left = (inner.cast(inner.and_(inside, inner.ne(move, n)), dtype=i64) for n in (2, 1))
        new = inner.sub(row, up), inner.sub(column, left)
        results = [*new, inner.cast(here, dtype=i32), inner.cast(inside, dtype=i64)]
        return inner.finish([inner.scalar(True, bool_), *results])

    ends = [context.size(d - 1) for d in (rows, columns)]
    trips = context.size(maximum(rows + columns - 1, 0))
    *_, path, inside = emit_loop(context, trips, b.scalar(True, bool_), ends, body)
    (count,) = read_shape(context, b.reduce(inside, function="add", axes=(0,), keepdims=True))
    return path, count


@onnx_op("BifurcationDetector", domain=MS)
def bifurcation_detector(context: Context, node: NodeView):
    """Tokens so far with those of a guess that came true and one more; and where the source goes on from
    their last few, -1 if these are nowhere or at several places."""
    b, (source, tokens, started), guess = context.builder, node.inputs[:3], node.input(3)
    low, high = node.attribute("min_ngram_size", 1), node.attribute("max_ngram_size", 3)
    if not 0 < low <= high:
        context.unsupported(f"n-grams of {low} to {high}")
    if guess is not None:
        count = guess.shape[0]
        at = b.iota(shape=(count,), axis=0, dtype=i64)
        place = b.add(at, b.reshape(started, shape=()))
        other = b.ne(guess, b.gather(source, held(context, place, source.shape[0]), axis=0))
        other = b.or_(other, b.ge(place, context.size(source.shape[0])))
        kept = b.reduce(b.select(other, at, context.size(count)), function="min", axes=(0,), keepdims=True)
        (taken,) = read_shape(context, b.add(kept, 1))
        tokens = b.concat(tokens, part(context, guess, 0, 0, taken), axis=0)
    return tokens, b.reshape(_suffix(context, source, tokens, low, high), shape=started.shape)


def _suffix(context: Context, source: Value, tokens: Value, low: int, high: int) -> Value:
    """Where the source goes on from the last n of the tokens, for the largest n that was tried."""
    b, size, have = context.builder, source.shape[0], context.size(tokens.shape[0])
    length, at = context.size(size), b.iota(shape=(size,), axis=0, dtype=i64)
    found, ended = b.scalar(-1, i64), b.scalar(False, bool_)
    for n in range(low, high + 1):
        same = b.le(at, b.sub(length, n))
        for k in range(n):
            tail = b.gather(tokens, held(context, b.add(have, k - n), tokens.shape[0]), axis=0)
            here = b.gather(source, held(context, b.add(at, k), size), axis=0)
            same = b.and_(same, b.eq(here, tail))
        count = b.reduce(b.cast(same, dtype=i64), function="add", axes=(0,), keepdims=False)
        first = b.reduce(b.select(same, at, length), function="min", axes=(0,), keepdims=False)
        after = b.add(first, n)
        ended = b.or_(ended, b.or_(b.lt(have, n), b.eq(count, 0)))
        here = b.select(b.or_(b.eq(count, 1), b.ge(after, length)), after, -1)
        found = b.select(ended, found, here)
        ended = b.or_(ended, b.ge(after, length))
    return found
