"""Sizes of kernels: expressions over sizes alone become parameters that mean the same."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tallow.dim import Dim, broadcast, evaluate, floordiv, maximum, minimum, mod, symbol
from tallow.dtype import f32
from tallow.kernel import build
from tallow.kernel.grammar import Buffer, Const, For, Load, Store, Var
from tallow.lower.sizes import Sizes

NAMES = ("n", "m")


@st.composite
def dims(draw, depth: int = 3) -> Dim:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from([symbol("n"), symbol("m"), 1, 2, 7]))
    a, b = draw(dims(depth=depth - 1)), draw(dims(depth=depth - 1))
    kind = draw(st.sampled_from(["add", "mul", "floordiv", "mod", "min", "max", "broadcast"]))
    match kind:
        case "add":
            return a + b
        case "mul":
            return a * b
        case "floordiv":
            return floordiv(a, draw(st.integers(1, 4)))
        case "mod":
            return mod(a, draw(st.integers(1, 4)))
        case "min":
            return minimum(a, b)
        case "max":
            return maximum(a, b)
    return broadcast(symbol("n"), symbol("m"))


def sizes() -> Sizes:
    counter = iter(range(100))
    return Sizes(frozenset(NAMES), lambda hint: f"{hint}_{next(counter)}")


@settings(max_examples=300, deadline=None)
@given(dims(), st.integers(1, 9), st.booleans())
def test_a_parameter_means_what_the_expression_did(dim, n, same):
    bindings = {"n": n, "m": n if same else 1}
    found = sizes().dim(build.from_dim(dim))
    assert found is not None
    assert evaluate(found, bindings) == evaluate(dim, bindings)


def test_only_what_depends_on_sizes_alone_is_a_parameter():
    n, i = symbol("n"), Var("i")
    half = build.from_dim(floordiv(n + 1, 2))
    x, y = Buffer("x", f32), Buffer("y", f32, writable=True)
    place = build.add(build.mul(i, half), build.from_dim(n))
    loop = For(i, half, (Store(y, place, Load(x, build.mul(i, half))),), "grid")
    found = sizes()
    (new,) = found.statements([loop])
    assert found.parameters == {"size_0": floordiv(n + 1, 2), "n": n}
    assert new.stop == Var("size_0")
    store = new.body[0]
    assert store.index == build.add(build.mul(i, Var("size_0")), Var("n"))
    assert store.value == Load(x, build.mul(i, Var("size_0")))


def test_equal_sizes_are_one_parameter_and_constants_none():
    found = sizes()
    a, b = build.from_dim(symbol("n") * 2 + symbol("m")), build.from_dim(symbol("m") + symbol("n") * 2)
    assert found.expression(a) == found.expression(b) == Var("size_0")
    assert found.expression(Const(3)) == Const(3)
    assert found.expression(Var("i")) == Var("i")
