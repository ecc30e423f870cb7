"""The verifier: each rule broken once, and every stage of lowering passes."""

from __future__ import annotations

import pytest

from tallow.dtype import bool_, f32, f64, i32, i64, u8
from tallow.errors import VerifyError
from tallow.kernel import build
from tallow.kernel.build import const
from tallow.kernel.expand import expand
from tallow.kernel.grammar import (
    Alloc,
    Barrier,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Const,
    For,
    If,
    Kernel,
    Let,
    Load,
    Prefetch,
    Ramp,
    Reduce,
    Splat,
    Store,
    Update,
    Var,
)
from tallow.kernel.math import APPROXIMATIONS
from tallow.kernel.unroll import unroll
from tallow.kernel.vectorise import vectorise
from tallow.kernel.verify import verify
from tallow.scalar import SCALAR

X, Y = Buffer("x", f32), Buffer("y", f32, writable=True)
FIXED = Buffer("fixed", f32, 4, writable=True)
REGISTER = Buffer("r", f32, 4, "register", True)
G, AT, N = Var("g"), Var("i"), Var("n")
ZERO, ONE, X0 = const(0), const(1, f32), Load(X, Const(0))


def kernel(*body, before=(), parameters=(X, Y, FIXED)) -> Kernel:
    return Kernel("k", parameters, (N,), (*before, For(G, N, tuple(body), "grid")))


def stored(value) -> Store:
    return Store(Y, ZERO, value)


FAULTS = {
    "undefined variable": ([Store(Y, Var("z"), ONE)], "variable z is not defined here"),
    "variable of another dtype": ([stored(Cast(Var("g", i32), f32))], "variable g: expected i64 x 1"),
    "variable after its scope": ([For(AT, N, ()), Store(Y, AT, ONE)], "variable i is not defined here"),
    "undeclared buffer": ([Store(REGISTER, ZERO, ONE)], "buffer r is not declared here"),
    "another buffer of that name": ([stored(Load(Buffer("x", f32, 8), ZERO))], "buffer x is declared as"),
    "buffer twice": ([Alloc(REGISTER), Alloc(REGISTER)], "buffer r is declared twice"),
    "global alloc": ([Alloc(Buffer("a", f32, 4))], "a: expected a space other than global"),
    "alloc without size": ([Alloc(Buffer("a", f32, None, "local"))], "a: expected a constant size"),
    "read-only": ([Store(X, ZERO, ONE)], "x is not writable"),
    "stored dtype": ([stored(const(1, f64))], "value for y: expected f32 x 1, got f64 x 1"),
    "constant index": ([Store(FIXED, const(4), ONE)], r"fixed\[4\] x 1 is outside its 4 elements"),
    "constant vector index": (
        [stored(Reduce("add", Load(FIXED, const(1), 4)))],
        r"fixed\[1\] x 4 is outside",
    ),
    "index dtype": ([Store(Y, const(0, i32), ONE)], "index of y: expected i64 x 1, got i32"),
    "mask dtype": ([stored(Load(X, ZERO, 1, ONE))], "mask of x: expected bool x 1"),
    "mask lanes": (
        [stored(Reduce("add", Load(X, ZERO, 4, Const(True, bool_))))],
        "mask of x: expected bool x 4",
    ),
    "lanes of a store": ([Store(Y, Ramp(4), ONE)], "4 places of y take 1 lanes"),
    "lanes of a gather": ([stored(Load(X, Ramp(4)))], "load of 1 lanes by a vector"),
    "two counts of lanes": ([Store(Y, Ramp(2), Const(1.0, f32, 4))], "4 lanes of y at 2 indexes"),
    "register index": (
        [Alloc(REGISTER), Store(REGISTER, G, ONE)],
        "index of register buffer r: expected a const",
    ),
    "unroll bounds": ([For(AT, N, (), "unroll")], "unroll loop over i: expected constant bounds, got n"),
    "loop bound": ([For(AT, ONE, ())], "stop of loop over i: expected i64 x 1, got f32"),
    "loop variable": ([For(Var("i", i32), N, ())], "loop variable i: expected a scalar i64"),
    "loop step": ([For(AT, N, (), step=0)], "loop over i: expected a step above 0"),
    "loop kind": ([For(AT, N, (), "parallel")], "no loop is of kind 'parallel'"),
    "grid in grid": ([For(AT, N, (), "grid")], "grid loop over i inside the grid loop"),
    "update": ([Update(Y, ZERO, "mean", ONE)], "no update is named 'mean'"),
    "update of a vector": ([Update(Y, ZERO, "add", Load(X, ZERO, 4))], "an update takes one scalar"),
    "reduction": ([stored(Reduce("mean", Load(X, ZERO, 4)))], "no reduction is named 'mean'"),
    "condition": ([If(ONE, ())], "condition: expected bool x 1, got f32"),
    "let": ([Let(Var("v", f64), ONE)], "value of v: expected f64 x 1, got f32 x 1"),
    "function": ([stored(Call("gelu", (X0,), f32))], "no scalar function is named 'gelu'"),
    "arity": ([stored(Call("add", (X0,), f32))], "add: expected 2 arguments, got 1"),
    "argument dtypes": (
        [stored(Call("add", (ONE, const(1, f64)), f32))],
        "add: expected arguments of one dtype",
    ),
    "kind": ([stored(Cast(Call("exp", (const(1, u8),), u8), f32))], "exp: not a function of u8"),
    "result": ([stored(Call("lt", (ONE, ONE), f32))], "result of lt: expected bool x 1"),
    "select": ([stored(Call("select", (ONE, ONE, ONE), f32))], "condition of select: expected bool"),
    "bitcast": (
        [stored(Bitcast(const(0, i64), f32))],
        "bitcast: expected dtypes of one width, got i64 and f32",
    ),
    "splat of a vector": (
        [Store(Y, ZERO, Splat(Load(X, ZERO, 2), 4))],
        "splat: expected f32 x 1, got f32 x 2",
    ),
    "no lanes": ([stored(Const(1.0, f32, 0))], "expected at least one lane"),
    "prefetch": ([Prefetch(X, ONE)], "index of x: expected i64 x 1, got f32"),
    "not a statement": ([ONE], "expected a statement, got Const"),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_each_rule_is_kept(rule):
    body, message = FAULTS[rule]
    with pytest.raises(VerifyError, match=message):
        verify(kernel(*body))


@pytest.mark.parametrize(
    "body",
    [
        (),
        (For(G, N, ()),),
        (For(G, N, (), "grid"), For(AT, N, (), "grid")),
        (For(G, N, (), "grid"), Let(AT, ZERO)),
    ],
)
def test_one_grid_loop_at_the_end(body):
    with pytest.raises(VerifyError, match="expected a body of lets and then one grid loop"):
        verify(Kernel("k", (), (N,), body))


def test_only_lets_come_before_the_grid():
    with pytest.raises(VerifyError, match="expected lets before the grid loop, got Alloc"):
        verify(kernel(before=[Alloc(REGISTER)]))


def test_parameters_are_global():
    with pytest.raises(VerifyError, match="parameter r: expected a global buffer, got register"):
        verify(kernel(parameters=(REGISTER,)))


def test_the_lines_around_a_fault_are_shown():
    bad = If(build.less(G, N), (stored(ONE),), (stored(Var("lost", f32)),))
    with pytest.raises(VerifyError) as caught:
        verify(kernel(bad, Barrier()))
    assert str(caught.value) == (
        "kernel k: variable lost is not defined here\n"
        "     4       y[0] = 1.0\n"
        "     5     else\n"
        ">    6       y[0] = lost\n"
        "     7     barrier"
    )


def reductions():
    for dtype, ops in {
        f32: ("add", "mul", "max", "min"),
        i32: ("or", "and", "add"),
        bool_: ("or", "and"),
    }.items():
        for op in ops:
            yield pytest.param(dtype, op, id=f"{op}_{dtype}")


@pytest.mark.parametrize("dtype, op", reductions())
def test_every_stage_of_a_reduction_passes(dtype, op):
    x, y = Buffer("x", dtype), Buffer("y", dtype, writable=True)
    loop = For(AT, N, (Update(y, ZERO, op, Load(x, AT)),), "vector")
    assert_stages_pass(kernel(loop, parameters=(x, y)))


@pytest.mark.parametrize("function", APPROXIMATIONS)
def test_every_stage_of_a_function_passes(function):
    value = build.call(function, *[Load(X, AT)] * SCALAR[function].arity)
    assert_stages_pass(kernel(For(AT, N, (Store(Y, AT, value),), "vector")))


def assert_stages_pass(plain: Kernel) -> None:
    verify(plain)
    wide = vectorise(expand(plain, frozenset(SCALAR) - frozenset(APPROXIMATIONS)), 32)
    verify(wide)
    verify(unroll(wide))
