"""The minimum cut against every way to take sides."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tallow.placement.cut import INFINITE, Move, cut


def price(costs, moves, sides) -> int:
    total = sum(pair[side] for pair, side in zip(costs, sides, strict=True))
    return total + sum(m.cost for m in moves if any(sides[r] != sides[m.maker] for r in m.readers))


@st.composite
def problems(draw):
    count = draw(st.integers(1, 7))
    cost = st.one_of(st.integers(0, 9), st.just(INFINITE))
    costs = [draw(st.tuples(cost, cost)) for _ in range(count)]
    costs = [(0, b) if a == b == INFINITE else (a, b) for a, b in costs]
    item = st.integers(0, count - 1)
    readers = st.lists(item, min_size=1, max_size=3, unique=True).map(tuple)
    return costs, draw(st.lists(st.builds(Move, item, readers, st.integers(0, 9)), max_size=8))


@settings(max_examples=300, deadline=None)
@given(problems())
def test_no_choice_of_sides_costs_less(problem):
    costs, moves = problem
    got = cut(costs, moves)
    every = list(itertools.product((False, True), repeat=len(costs)))
    least = min(price(costs, moves, sides) for sides in every)
    assert price(costs, moves, got) == least
    best = [sides for sides in every if price(costs, moves, sides) == least]
    assert sum(got) == min(map(sum, best))


def test_a_value_that_many_read_is_moved_once():
    costs = [(0, INFINITE), (3, 0), (3, 0)]
    assert cut(costs, [Move(0, (1, 2), 5)]) == [False, True, True]
    assert cut(costs, [Move(0, (1,), 5), Move(0, (2,), 5)]) == [False, False, False]


def test_nothing():
    assert cut([], []) == []


def test_a_long_chain():
    costs = [(0, INFINITE), *[(1, 1)] * 3000, (INFINITE, 0)]
    moves = [Move(i, (i + 1,), 2 if i != 1500 else 1) for i in range(3001)]
    got = cut(costs, moves)
    assert got == [False] * 1501 + [True] * 1501
