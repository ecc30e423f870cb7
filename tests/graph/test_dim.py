"""Dims: one normal form, so that what is provably equal compares equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallow import dim as d
from tallow.dim_text import parse_dim
from tallow.errors import GraphError

NAMES = ("a", "b", "c")


@st.composite
def dims(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.integers(-5, 9), st.sampled_from([d.symbol(n, 1) for n in NAMES])))
    left, right = draw(dims(depth=depth - 1)), draw(dims(depth=depth - 1))
    operation = draw(st.sampled_from(["+", "-", "*", "//", "min", "max"]))
    match operation:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return d.floordiv(left, draw(st.integers(1, 6)))
        case "min":
            return d.minimum(left, right)
    return d.maximum(left, right)


@settings(max_examples=200, deadline=None)
@given(dims(), dims(), st.tuples(*[st.integers(1, 9)] * 3))
def test_arithmetic_means_what_integers_mean(x, y, values):
    bindings = dict(zip(NAMES, values, strict=True))
    a, b = d.evaluate(x, bindings), d.evaluate(y, bindings)
    assert d.evaluate(x + y, bindings) == a + b
    assert d.evaluate(x * y, bindings) == a * b
    assert d.evaluate(x - y, bindings) == a - b
    assert d.evaluate(d.floordiv(x, 4), bindings) == a // 4
    assert d.evaluate(d.minimum(x, y), bindings) == min(a, b)
    assert (x - x) == 0


@settings(max_examples=100, deadline=None)
@given(dims(), st.tuples(*[st.integers(1, 9)] * 3))
def test_bounds_hold_and_text_round_trips(x, values):
    bindings = dict(zip(NAMES, values, strict=True))
    low, high = d.bounds(x)
    value = d.evaluate(x, bindings)
    assert low is None or low <= value
    assert high is None or value <= high
    assert d.evaluate(parse_dim(str(x)), bindings) == value


def test_provable_equality():
    batch, seq = d.symbol("batch", 1), d.symbol("seq", 1)
    assert (batch * seq * 12) // 12 == seq * batch
    assert d.exact_quotient(batch * seq * 768, seq * 64) == batch * 12
    assert d.exact_quotient((batch * seq - batch * 6) * 512, batch * seq - batch * 6) == 512
    assert d.exact_quotient((batch + seq) * (seq - 2), seq + batch) == seq - 2
    assert d.exact_quotient(batch * seq, batch + seq) is None
    assert d.exact_quotient(batch + seq + 1, batch + seq) is None
    assert (batch * 4) % 2 == 0
    assert d.broadcast(1, seq) == seq and d.broadcast(seq, seq) == seq


def test_errors_name_what_is_wrong():
    with pytest.raises(GraphError, match="sizes 2 and 3 do not broadcast"):
        d.broadcast(2, 3)
    with pytest.raises(GraphError, match="size batch has no value: batch not bound"):
        d.evaluate(d.symbol("batch"), {})
    with pytest.raises(GraphError, match="bad size .batch .. 2.: line 1, column 8: expected a size"):
        parse_dim("batch ** 2")
