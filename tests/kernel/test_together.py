"""What neighbouring threads of a group do together, and copies of several elements: meaning, rules, words."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallow.cstyle.dialects import CUDA, OPENCL
from tallow.cstyle.printer import print_kernel
from tallow.dtype import bf16, bool_, f16, f32, f64
from tallow.errors import CompileError, VerifyError
from tallow.interpret import interpret
from tallow.kernel import build
from tallow.kernel.build import const, walk_stmts
from tallow.kernel.expand import expand
from tallow.kernel.grammar import (
    Alloc,
    Barrier,
    Buffer,
    Copy,
    Exchange,
    For,
    Fragment,
    If,
    Kernel,
    Let,
    Load,
    LoadMatrix,
    Multiply,
    Store,
    StoreMatrix,
    Var,
)
from tallow.kernel.math import APPROXIMATIONS
from tallow.kernel.text import print_kernel as print_text
from tallow.kernel.unroll import unroll
from tallow.kernel.verify import verify
from tallow.scalar import SCALAR

X, Y = Buffer("x", f32), Buffer("y", f32, writable=True)
G, T, K, N = Var("g"), Var("t"), Var("k"), Var("n")
THERE = Var("there", f32)
ZERO = const(0)


def of_threads(count: int, *body, parameters=(X, Y), shared=()) -> Kernel:
    """One group of threads, with memory that they share."""
    group = For(T, const(count), tuple(body), "group")
    return Kernel("k", parameters, (N,), (For(G, const(1), (*map(Alloc, shared), group), "grid"),))


def run(kernel: Kernel, n: int = 8, **arrays: np.ndarray) -> None:
    verify(kernel)
    interpret(kernel, arrays, {"n": n})


# Values of other threads -----------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_an_exchange_gives_what_the_other_thread_has(distance):
    kernel = of_threads(8, Exchange(THERE, Load(X, T), distance), Store(Y, T, THERE))
    x, y = np.arange(8, dtype="f4"), np.zeros(8, "f4")
    run(kernel, x=x, y=y)
    np.testing.assert_array_equal(y, x[np.arange(8) ^ distance])


def test_exchanges_in_unrolled_loops_have_variables_of_their_own():
    """Each thread adds up what the thread beside it has, three times."""
    total = Buffer("total", f32, 1, "register", True)
    step = (
        Exchange(THERE, Load(total, ZERO), 1),
        Store(total, ZERO, build.call("add", THERE, build.cast(K, f32))),
    )
    loop = For(K, const(3), step, "unroll")
    kernel = of_threads(2, Alloc(total), Store(total, ZERO, Load(X, T)), loop, Store(Y, T, Load(total, ZERO)))
    straight = unroll(kernel)
    assert len({s.var.name for s in walk_stmts(straight.body) if isinstance(s, Exchange)}) == 3
    x = np.array([5, 7], "f4")
    for form in (kernel, straight):
        y = np.zeros(2, "f4")
        run(form, x=x, y=y)
        np.testing.assert_array_equal(y, [7 + 3, 5 + 3])


def test_functions_of_exchanged_values_are_written_out():
    kernel = of_threads(2, Exchange(THERE, build.call("exp", Load(X, T)), 1), Store(Y, T, THERE))
    written = expand(kernel, frozenset(SCALAR) - frozenset(APPROXIMATIONS))
    assert "exp(" in print_text(kernel) and "exp(" not in print_text(written)
    x, y = np.array([0, 1], "f4"), np.zeros(2, "f4")
    run(written, x=x, y=y)
    np.testing.assert_allclose(y, np.exp(x[::-1]), rtol=1e-6)


@pytest.mark.parametrize(
    "statement", [Exchange(THERE, Load(X, T), 1), Barrier(2), Barrier()], ids=["exchange", "two", "all"]
)
def test_threads_that_miss_what_others_do_together_are_a_fault(statement):
    body = If(build.less(T, const(4)), (statement,))
    with pytest.raises(VerifyError, match="threads of a group do not meet at the same place"):
        run(of_threads(8, body), x=np.zeros(8, "f4"), y=np.zeros(8, "f4"))


# Copies ----------------------------------------------------------------------------------------------


def copying(count: int, to: int = 0, start: int = 0) -> Kernel:
    """`count` elements of x at each thread's own place, and zeros where it has none."""
    mine = build.mul(T, const(count))
    wide = Copy(
        Y, build.add(mine, const(to)), X, build.add(mine, const(start)), count, build.less(T, const(3))
    )
    return of_threads(4, wide)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_copies(count):
    x, y = np.arange(16, dtype="f4"), np.full(16, 9, "f4")
    run(copying(count), x=x, y=y)
    want = np.where(np.arange(16) < 3 * count, x, 0)
    np.testing.assert_array_equal(y[: 4 * count], want[: 4 * count])
    assert (y[4 * count :] == 9).all()


@pytest.mark.parametrize("to, start, name", [(1, 0, "y"), (0, 2, "x")])
def test_copies_between_multiples_of_their_size(to, start, name):
    with pytest.raises(VerifyError, match=rf"k: {name}\[{to or start}\]: expected a multiple of 4"):
        run(copying(4, to, start), x=np.zeros(32, "f4"), y=np.zeros(32, "f4"))


def test_copies_stay_inside():
    with pytest.raises(VerifyError, match="x"):
        run(copying(4), x=np.zeros(8, "f4"), y=np.zeros(16, "f4"))


# Matrices --------------------------------------------------------------------------------------------


def product_kernel(dtype, rows, columns, depth, turned=(False, False), threads=4, pitch=None) -> Kernel:
    """y += a b once for each of two steps, operands in shared memory as they are given, or turned."""
    shapes = ((rows, depth), (depth, columns))
    pitches = [
        (s[0] if t else s[1]) + 2 if pitch is None else pitch for s, t in zip(shapes, turned, strict=True)
    ]
    operands, body, shared = [], [], []
    for n, (role, shape, t, step) in enumerate(zip(("left", "right"), shapes, turned, pitches, strict=True)):
        given = Buffer("ab"[n], dtype)
        size = (shape[1] if t else shape[0]) * step
        memory = Buffer(f"memory{n}", dtype, size, "shared", True)
        at = Var(f"i{n}")
        fill = For(at, const(size), (Store(memory, at, Load(given, at)),), "serial", T, threads)
        operands.append((Fragment(role, dtype, role, *shape, threads, t), memory, step))
        shared.append(memory)
        body.append(fill)
    total = Fragment("total", f32, "sum", rows, columns, threads)
    result = Buffer("result", f32, rows * (columns + 4), "shared", True)
    loads = tuple(LoadMatrix(f, memory, ZERO, step) for f, memory, step in operands)
    (left, _, _), (right, _, _) = operands
    at = Var("o")
    body += [
        Barrier(),
        Alloc(total),
        Alloc(left),
        Alloc(right),
        For(K, const(2), (*loads, Multiply(total, left, right))),
        StoreMatrix(result, ZERO, columns + 4, total),
        Barrier(threads),
        For(at, const(result.size), (Store(Y, at, Load(result, at)),), "serial", T, threads),
    ]
    parameters = (Buffer("a", dtype), Buffer("b", dtype), Y)
    return of_threads(threads, *body, parameters=parameters, shared=(*shared, result))


def laid_out(matrix: np.ndarray, turned: bool) -> np.ndarray:
    """A matrix as it lies in memory, lines two elements further apart than they are long."""
    given = matrix.T if turned else matrix
    return np.pad(given, ((0, 0), (0, 2)), constant_values=99).ravel()


@given(
    st.sampled_from([f16, bf16, f32]),
    *[st.integers(1, 5)] * 3,
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_products_of_fragments(dtype, rows, columns, depth, one, other, seed):
    """Numbers of few bits, so that sums are exact and any order is right."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(-8, 9, s).astype(dtype.numpy) for s in ((rows, depth), (depth, columns)))
    y = np.zeros(rows * (columns + 4), "f4")
    kernel = product_kernel(dtype, rows, columns, depth, (one, other))
    run(kernel, a=laid_out(a, one), b=laid_out(b, other), y=y)
    got = y.reshape(rows, columns + 4)[:, :columns]
    np.testing.assert_array_equal(got, 2 * (a.astype("f8") @ b.astype("f8")))


def test_products_of_narrow_floats_are_summed_in_f32():
    a = np.array([[300.0, 300.0, 300.0, 1.0]], "f2")
    y = np.zeros(5, "f4")
    run(product_kernel(f16, 1, 1, 4), a=laid_out(a, False), b=laid_out(a.T, False), y=y)
    assert y[0] == 2 * 270001


def test_operands_of_f32_are_rounded_to_11_bits():
    """Nearest, ties away from zero; what is not finite stays."""
    given = np.array([1 + 2**-11, 1 + 2**-12, -1 - 2**-11, np.inf, np.nan, 3e-39], "f4")
    y = np.zeros(len(given) * 5, "f4")
    run(
        product_kernel(f32, 6, 1, 1),
        a=laid_out(given[:, None], False),
        b=laid_out(np.ones((1, 1), "f4"), False),
        y=y,
    )
    want = np.array([1 + 2**-10, 1, -1 - 2**-10, np.inf, np.nan], "f4")
    np.testing.assert_array_equal(y[::5][:5], 2 * want)


def test_products_pass_nan_and_infinity_on():
    a = np.array([[np.inf, 1], [np.nan, 0], [np.inf, -np.inf]], ml_dtypes.bfloat16)
    y = np.zeros(3 * 5, "f4")
    run(
        product_kernel(bf16, 3, 1, 2),
        a=laid_out(a, False),
        b=laid_out(np.ones((2, 1), bf16.numpy), False),
        y=y,
    )
    np.testing.assert_array_equal(y[::5], [np.inf, np.nan, np.nan])


def test_holders_of_a_fragment_agree_on_its_place():
    memory = Buffer("memory", f16, 64, "shared", True)
    left = Fragment("a", f16, "left", 2, 2, 2)
    kernel = of_threads(4, Alloc(left), LoadMatrix(left, memory, T, 2), parameters=(Y,), shared=(memory,))
    with pytest.raises(VerifyError, match="threads that hold a are at different places of memory: 0 and 1"):
        run(kernel, y=np.zeros(1, "f4"))


def test_fragments_are_loaded_from_inside_memory():
    with pytest.raises(VerifyError, match=r"memory0"):
        small = product_kernel(f16, 4, 2, 2)
        memory = Buffer("memory0", f16, 16, "shared", True)
        smaller = Buffer("memory0", f16, 12, "shared", True)
        run(
            _renamed(small, memory, smaller), a=np.zeros(64, "f2"), b=np.zeros(64, "f2"), y=np.zeros(64, "f4")
        )


def _renamed(kernel: Kernel, old: Buffer, new: Buffer) -> Kernel:
    def one(s):
        if isinstance(s, For):
            stop = const(new.size) if s.stop == const(old.size) else s.stop
            return replace(s, body=tuple(map(one, s.body)), stop=stop)
        found = {name: new for name in ("buffer", "source") if getattr(s, name, None) == old}
        return replace(s, **found)

    return replace(kernel, body=tuple(map(one, kernel.body)))


# Rules -----------------------------------------------------------------------------------------------

SHARED = Buffer("shared", f16, 1024, "shared", True)
SUMS = Buffer("sums", f32, 1024, "shared", True)
LEFT = Fragment("a", f16, "left", 16, 16, 4)
RIGHT = Fragment("b", f16, "right", 16, 16, 4)
TOTAL = Fragment("c", f32, "sum", 16, 16, 4)
HELD = [Alloc(LEFT), Alloc(RIGHT), Alloc(TOTAL)]

FAULTS = {
    "distance": ([Exchange(THERE, Load(X, T), 0)], "exchange: expected a distance above 0, got 0"),
    "odd distance": ([Exchange(THERE, Load(X, T), 3)], "exchange: expected a power of two of threads, got 6"),
    "distance beyond the group": (
        [Exchange(THERE, Load(X, T), 8)],
        "exchange: expected a group loop over a multiple of 16 threads, got 8",
    ),
    "vector": ([Exchange(Var("v", f32, 2), Load(X, T, 2), 1)], "exchange: expected a scalar, got 2 lanes"),
    "exchanged dtype": (
        [Exchange(Var("v", f64), Load(X, T), 1)],
        "value of v: expected f64 x 1, got f32 x 1",
    ),
    "register index": (
        [Alloc(Buffer("r", f32, 8, "register")), Exchange(Var("v"), ZERO, 1)]
        + [Store(Y, ZERO, Load(Buffer("r", f32, 8, "register"), Var("v")))],
        "index of register buffer r: expected a const",
    ),
    "barrier of three": ([Barrier(3)], "barrier: expected a power of two of threads, got 3"),
    "barrier of more": ([Barrier(32)], "barrier: expected a group loop over a multiple of 32 threads, got 8"),
    "copied dtype": (
        [Copy(Y, ZERO, SHARED, ZERO, 4)],
        "copy: expected buffers of one dtype, got f32 and f16",
    ),
    "copy of three": ([Copy(Y, ZERO, X, ZERO, 3)], "copy to y: expected a power of two of elements, got 3"),
    "read-only": ([Copy(X, ZERO, Y, ZERO, 4)], "x is not writable"),
    "copied mask": ([Copy(Y, ZERO, X, ZERO, 4, ZERO)], "mask of x: expected bool x 1, got i64"),
    "copy index": ([Copy(Y, const(0, f32), X, ZERO, 4)], "index of y: expected i64 x 1, got f32"),
    "copied outside": ([Copy(SUMS, const(1022), X, ZERO, 4)], r"sums\[1022\] x 4 is outside its 1024"),
    "role": ([Alloc(replace(LEFT, role="middle"))], "no fragment is a 'middle'"),
    "operand dtype": ([Alloc(replace(LEFT, dtype=f64))], "left a: expected f16 or bf16 or f32, got f64"),
    "sum dtype": ([Alloc(replace(TOTAL, dtype=f16))], "sum c: expected f32, got f16"),
    "no elements": ([Alloc(replace(LEFT, rows=0))], "a: expected elements"),
    "turned sum": ([Alloc(replace(TOTAL, turned=True))], "c: a sum is not turned"),
    "fragment twice": ([Alloc(LEFT), Alloc(LEFT)], "buffer a is declared twice"),
    "fragment named as a buffer": ([Alloc(replace(LEFT, name="x"))], "buffer x is declared twice"),
    "holders": ([Alloc(replace(LEFT, threads=16))], "a: expected a group loop over a multiple of 16 threads"),
    "not declared": ([LoadMatrix(LEFT, SHARED, ZERO, 16)], "fragment a is not declared here"),
    "loaded sum": ([*HELD, LoadMatrix(TOTAL, SUMS, ZERO, 16)], "c: expected a left or right, got a sum"),
    "stored operand": ([*HELD, StoreMatrix(SHARED, ZERO, 16, LEFT)], "a: expected a sum, got a left"),
    "memory": ([*HELD, StoreMatrix(Y, ZERO, 16, TOTAL)], "y: expected shared memory, got global"),
    "memory dtype": ([*HELD, LoadMatrix(LEFT, SUMS, ZERO, 16)], "a: expected memory of f16, got f32"),
    "pitch": ([*HELD, LoadMatrix(LEFT, SHARED, ZERO, 15)], "a: expected lines 16 or more apart, got 15"),
    "place": ([*HELD, LoadMatrix(LEFT, SHARED, const(0, f32), 16)], "index of shared: expected i64"),
    "sides": ([*HELD, Multiply(TOTAL, RIGHT, LEFT)], "b: expected a left, got a right"),
    "sizes": (
        [
            *HELD,
            Alloc(replace(RIGHT, name="d", rows=8)),
            Multiply(TOTAL, LEFT, replace(RIGHT, name="d", rows=8)),
        ],
        "c [+]= a @ d: expected factors of one dtype that fit the sum, held by the same threads",
    ),
    "factors of two dtypes": (
        [
            *HELD,
            Alloc(replace(RIGHT, name="d", dtype=bf16)),
            Multiply(TOTAL, LEFT, replace(RIGHT, name="d", dtype=bf16)),
        ],
        "expected factors of one dtype",
    ),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_each_rule_is_kept(rule):
    body, message = FAULTS[rule]
    with pytest.raises(VerifyError, match=message):
        verify(of_threads(8, *body, shared=(SHARED, SUMS)))


def test_fragments_belong_to_a_group():
    body = (Alloc(TOTAL),)
    with pytest.raises(VerifyError, match="c: expected a group loop"):
        verify(Kernel("k", (), (N,), (For(G, N, body, "grid"),)))


def test_neighbours_need_a_group_of_known_size():
    group = For(T, N, (Barrier(4),), "group")
    with pytest.raises(VerifyError, match="multiple of 4 threads, got none"):
        verify(Kernel("k", (), (N,), (For(G, N, (group,), "grid"),)))


# Words -----------------------------------------------------------------------------------------------

FOLD = of_threads(
    64,
    Exchange(THERE, Load(X, T), 16),
    Let(Var("top", f32), build.call("max", THERE, Load(X, T))),
    Store(Y, T, Var("top", f32)),
    Barrier(32),
)
KERNELS = {
    "exchange": FOLD,
    "copy": copying(4),
    "copy_of_one": copying(1),
    "matrix_f16": product_kernel(f16, 16, 16, 16, (False, True), 32, 24),
    "matrix_bf16": product_kernel(bf16, 16, 16, 16, (True, False), 32, 24),
    "matrix_tf32": product_kernel(f32, 16, 16, 8, (False, False), 32, 20),
}


@pytest.mark.parametrize("name", KERNELS)
def test_golden_sources(name, golden):
    verify(KERNELS[name])
    golden(f"cuda_{name}", print_kernel(KERNELS[name], CUDA))
    golden(f"text_{name}", print_text(KERNELS[name]))


@pytest.mark.parametrize("name", KERNELS)
def test_dialects_without_neighbours_say_so(name):
    with pytest.raises(CompileError, match="opencl; write the kernel for a target without"):
        print_kernel(KERNELS[name], OPENCL)


def of_two_shapes() -> Kernel:
    """Products of two dtypes in one sum, which the grammar allows."""
    first, second = (
        [Fragment(f"{role} {dtype}", dtype, role, *shape, 32) for role, shape in sides.items()]
        for dtype, sides in (
            (f16, {"left": (16, 16), "right": (16, 16)}),
            (f32, {"left": (16, 8), "right": (8, 16)}),
        )
    )
    total = Fragment("total", f32, "sum", 16, 16, 32)
    return of_threads(
        32, *map(Alloc, (total, *first, *second)), Multiply(total, *first), Multiply(total, *second)
    )


REFUSED = {
    "exchange": (of_threads(64, Exchange(THERE, Load(X, T), 32)), "expected at most 32 threads .* got 64"),
    "fragment": (product_kernel(f16, 16, 16, 16, threads=16), "expected 32 threads .* got 16"),
    "operand": (
        product_kernel(f16, 16, 16, 8, threads=32),
        "left: expected 16 x 16 elements of f16, .* got 16 x 8",
    ),
    "sum": (
        product_kernel(f16, 16, 8, 16, threads=32),
        "total: expected 16 x 16 elements of f32, .* got 16 x 8",
    ),
    "two shapes": (
        of_two_shapes(),
        "total: expected products of one shape in a sum, got m16n16k16 and m16n16k8",
    ),
    "copy": (copying(8), "expected a copy of 2 to 16 bytes, got 32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_cuda_refuses_what_it_has_no_instruction_for(name):
    kernel, message = REFUSED[name]
    verify(kernel)
    with pytest.raises(CompileError, match=message):
        print_kernel(kernel, CUDA)


@pytest.mark.parametrize("name", KERNELS)
def test_the_processor_has_no_groups(name):
    llvm = pytest.importorskip("tallow_cpu.llvm.printer")
    with pytest.raises(CompileError, match="the CPU has no work-groups"):
        llvm.print_kernel(unroll(KERNELS[name]), "kernel", frozenset())


def test_flags_are_exchanged_like_numbers():
    flag = Var("flag", bool_)
    kernel = of_threads(
        2, Exchange(flag, build.less(Load(X, T), const(1, f32)), 1), Store(Y, T, build.cast(flag, f32))
    )
    y = np.zeros(2, "f4")
    run(kernel, x=np.array([0, 5], "f4"), y=y)
    np.testing.assert_array_equal(y, [0, 1])
