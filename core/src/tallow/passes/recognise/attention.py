"""Attention written out: two products with a softmax between them, and what exporters put around it."""

from __future__ import annotations

from dataclasses import dataclass

from tallow.builder import Builder
from tallow.dtype import bool_
from tallow.graph import Node, Value
from tallow.passes.recognise.match import one_scale, scaled, with_constant
from tallow.passes.simplify import Facts

TURNED = (0, 1, 3, 2)


@dataclass(frozen=True, slots=True)
class _Scores:
    """What the softmax is taken of: scale * (product of `product`'s operands), capped, then masked."""

    product: Node
    scale: float
    softcap: float = 0.0
    mask: Value | None = None
    fill: float | None = None
    inverted: bool = False


def attention(b: Builder, node: Node, facts: Facts) -> Value | None:
    """matmul(softmax(scale * matmul(q, k^T) + mask), v) = attention(q, k, v, mask)."""
    weights, v = node.inputs
    softmax, safe = _softmax(weights, facts)
    if softmax is None or softmax["axis"] != weights.rank - 1 or not 2 <= weights.rank <= 4:
        return None
    scores = _masked(softmax.inputs[0], facts)
    if scores is None or not _same_heads(node, scores):
        return None
    q, before = _unscaled(b, scores.product.inputs[0], facts)
    turned, after = _unscaled(b, scores.product.inputs[1], facts)
    masks = [] if scores.mask is None else [b.not_(scores.mask) if scores.inverted else scores.mask]
    spec = {"scale": scores.scale * before * after, "causal": False, "softcap": scores.softcap, "safe": safe}
    if scores.fill is not None:
        spec["fill"] = scores.fill
    q, turned, v = (_of_rank_4(b, x) for x in (q, turned, v))
    k, v = _heads_once(_turn(b, turned, facts), v, q, b, facts)
    return b.reshape(b.attention(q, k, v, *masks, **spec), shape=node.output.shape)


def _softmax(weights: Value, facts: Facts) -> tuple[Node | None, bool]:
    """The softmax that made the weights, and whether weights that are not numbers were made 0."""
    plain = facts.made_by(weights, "softmax")
    if plain is not None:
        return (plain if facts.single(weights) else None), False
    guard = facts.made_by(weights, "select")
    if guard is None or not facts.single(weights) or facts.scalar(guard.inputs[1]) != 0:
        return None, False
    test, inner = facts.made_by(guard.inputs[0], "isnan"), guard.inputs[2]
    if test is None or test.inputs[0] is not inner or facts.uses.get(inner) != 2:
        return None, False
    return (facts.made_by(inner, "softmax") if facts.single(guard.inputs[0]) else None), True


def _masked(value: Value, facts: Facts) -> _Scores | None:
    """Scores with at most one mask: added, or in place of scores where a bool says so."""
    plain = _capped(value, facts)
    if plain is not None or not facts.single(value):
        return plain
    node = facts.made_by(value, "add")
    if node is not None:
        for inner, mask in (node.inputs, reversed(node.inputs)):
            found = _capped(inner, facts) if inner.type == value.type else None
            if found is not None:
                return _Scores(found.product, found.scale, found.softcap, mask)
    node = facts.made_by(value, "select")
    if node is None:
        return None
    mask, yes, no = node.inputs
    for inner, other, inverted in ((yes, no, False), (no, yes, True)):
        found = _capped(inner, facts) if inner.type == value.type else None
        fill = facts.scalar(other)
        if found is not None and fill is not None and mask.dtype == bool_:
            return _Scores(found.product, found.scale, found.softcap, mask, fill, inverted)
    return None


def _capped(value: Value, facts: Facts) -> _Scores | None:
    """c * tanh(scores / c), or plain scores."""
    product = with_constant(facts.made_by(value, "mul"), facts)
    tanh = None if product is None else facts.made_by(product[0], "tanh")
    if tanh is None:
        return _product(value, facts, 1.0)
    cap = product[1]
    if not cap > 0 or not facts.single(value) or not facts.single(product[0]):
        return None
    inner = _product(tanh.inputs[0], facts, cap)
    return None if inner is None else _Scores(inner.product, inner.scale, cap)


def _product(value: Value, facts: Facts, times: float) -> _Scores | None:
    """factor * matmul(q, k^T), read by nothing else on the way."""
    inner, factor = value, 1.0
    while facts.made_by(inner, "matmul") is None:
        step = one_scale(inner, facts)
        if step is None or not facts.single(inner):
            return None
        inner, factor = step[0], factor * step[1]
    product = facts.made_by(inner, "matmul")
    if not facts.single(inner) or not inner.dtype.is_float:
        return None
    return _Scores(product, factor * times)


def _unscaled(b: Builder, value: Value, facts: Facts) -> tuple[Value, float]:
    """x and c of x * c, also where heads were split or turned after the scale."""
    value, factor = scaled(value, facts)
    node = facts.made_by(value, "reshape") or facts.made_by(value, "transpose")
    if node is not None and facts.single(value):
        inner, more = _unscaled(b, node.inputs[0], facts)
        if more != 1:
            return b.emit(node.op, inner, **node.attributes), factor * more
    return value, factor


def _same_heads(node: Node, scores: _Scores) -> bool:
    """Whether all operands have the leading axes of the result in full, and a mask adds none."""
    lead = node.output.shape[:-2]
    operands = (*scores.product.inputs, node.inputs[1])
    size = scores.product.output.type
    fits = scores.mask is None or (scores.mask.rank <= size.rank and scores.mask.dtype in (size.dtype, bool_))
    return fits and all(x.shape[:-2] == lead for x in operands)


def _of_rank_4(b: Builder, x: Value) -> Value:
    return x if x.rank == 4 else b.reshape(x, shape=(*(1,) * (4 - x.rank), *x.shape))


def _turn(b: Builder, turned: Value, facts: Facts) -> Value:
    """k of k^T."""
    made = facts.made_by(turned, "transpose")
    if made is not None and made["permutation"] == TURNED:
        return made.inputs[0]
    return b.transpose(turned, permutation=TURNED)


def _heads_once(k: Value, v: Value, q: Value, b: Builder, facts: Facts) -> tuple[Value, Value]:
    """Keys and values before their heads were repeated for groups of query heads, where both were."""
    once = [_unrepeated(x, facts) for x in (k, v)]
    if any(x is None for x in once) or once[0].shape[1] != once[1].shape[1]:
        return k, v
    return tuple(b.reshape(x, shape=(*x.shape[:2], *x.shape[3:])) for x in once)


def _unrepeated(x: Value, facts: Facts) -> Value | None:
    """y of reshape(broadcast(y)), which repeats axis 2 of y, of size 1, beside axis 1."""
    joined = facts.made_by(x, "reshape")
    many = None if joined is None else facts.made_by(joined.inputs[0], "broadcast")
    if many is None or many.output.rank != 5 or many.inputs[0].rank != 5:
        return None
    y, (batch, heads, times, *rest) = many.inputs[0], many.output.shape
    repeats = y.shape == (batch, heads, 1, *rest) and x.shape == (batch, heads * times, *rest)
    return y if repeats else None
