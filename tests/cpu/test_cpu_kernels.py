"""Whole kernels: odd sizes, masks, gathers, reductions, buffers, and what the printer refuses."""

import re

import numpy as np
import pytest
from cpu_support import BACKEND, COUNT, HOST, INDEX, Native, element_wise, grid
from hypothesis import given, settings
from hypothesis import strategies as st

from tallow.dtype import DTYPES, bool_, f16, f32, i32, i64, u8
from tallow.errors import CompileError, Unavailable
from tallow.kernel.build import add, call, const, mul, splat, var
from tallow.kernel.grammar import (
    Alloc,
    Barrier,
    Buffer,
    Call,
    Cast,
    Const,
    For,
    If,
    Kernel,
    Let,
    Load,
    Ramp,
    Reduce,
    Splat,
    Store,
    Update,
    Var,
)

X, Y, OUT = Buffer("x", f32), Buffer("y", f32), Buffer("out", f32, writable=True)
SIZES = (0, 1, 3, 15, 16, 17, 31, 64, 65, 127, 1000)


def loop(*body, stop=COUNT, kind="vector", index=INDEX):
    return For(index, stop, tuple(body), kind)


def whole(name, parameters, *body, sizes=(COUNT,)) -> Kernel:
    return Kernel(name, parameters, sizes, (grid(body),))


@pytest.fixture(scope="module")
def native():
    wide = Buffer("index", i64)
    kernels = [
        whole("scale", (X, OUT), loop(Store(OUT, INDEX, call("mul", Load(X, INDEX), const(3.0, f32))))),
        whole("zero", (OUT,), loop(Store(OUT, INDEX, const(0.0, f32)))),
        whole("zero_serial", (OUT,), loop(Store(OUT, INDEX, const(0.0, f32)), kind="serial")),
        whole("copy_serial", (X, OUT), loop(Store(OUT, INDEX, Load(X, INDEX)), kind="serial")),
        whole(
            "reverse", (X, OUT), loop(Store(OUT, INDEX, Load(X, call("sub", add(COUNT, const(-1)), INDEX))))
        ),
        whole("strided", (X, OUT), loop(Store(OUT, mul(INDEX, const(3)), Load(X, mul(INDEX, const(2)))))),
        whole("gather", (X, wide, OUT), loop(Store(OUT, INDEX, Load(X, Load(wide, INDEX))))),
        whole("masked", (X, OUT), loop(Store(OUT, INDEX, Load(X, INDEX, 1, call("lt", INDEX, const(5)))))),
        whole(
            "masked_serial",
            (X, OUT),
            loop(Store(OUT, INDEX, Load(X, INDEX, 1, call("lt", INDEX, const(5)))), kind="serial"),
        ),
        whole(
            "branch",
            (X, OUT),
            loop(
                If(
                    call("gt", Load(X, INDEX), const(0.0, f32)),
                    (Store(OUT, INDEX, Load(X, INDEX)),),
                    (Store(OUT, INDEX, const(-1.0, f32)),),
                )
            ),
        ),
    ]
    return Native(kernels)


@pytest.mark.parametrize("size", SIZES)
def test_moves_of_every_size(native, size):
    x = np.random.default_rng(size).standard_normal(2 * size + 1).astype(np.float32)
    index = np.random.default_rng(1).integers(0, len(x), size)
    even = np.full(3 * size, 7, np.float32)
    even[::3] = x[: 2 * size : 2]
    wanted = {
        "scale": x[:size] * np.float32(3),
        "zero": np.zeros(size),
        "zero_serial": np.zeros(size),
        "copy_serial": x[:size],
        "reverse": x[:size][::-1],
        "strided": even,
        "gather": x[index],
        "masked": np.where(np.arange(size) < 5, x[:size], 0),
        "masked_serial": np.where(np.arange(size) < 5, x[:size], 0),
        "branch": np.where(x[:size] > 0, x[:size], -1),
    }
    for name, want in wanted.items():
        out = np.full(len(want) + 8, 7, np.float32)
        arrays = [x, index, out] if name == "gather" else [out] if name.startswith("zero") else [x, out]
        native(name, *arrays, sizes=(size,))
        np.testing.assert_array_equal(out[:-8], want, name)
        np.testing.assert_array_equal(out[-8:], 7, name)


def reduction(op, dtype) -> Kernel:
    x, out = Buffer("x", dtype), Buffer("out", dtype, writable=True)
    return whole(f"{op}_{dtype}", (x, out), loop(Update(out, const(0), op, Load(x, INDEX))))


REDUCTIONS = [
    (op, d) for op in ("add", "mul", "max", "min") for d in ("f32", "f64", "i32", "i64", "u8", "f16")
]
REDUCTIONS += [("or", "bool"), ("and", "bool"), ("or", "u8"), ("and", "i32")]


@pytest.fixture(scope="module")
def reductions():
    return Native([reduction(op, DTYPES[d]) for op, d in REDUCTIONS])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_reductions(reductions, size, seed):
    random = np.random.default_rng(seed)
    for op, name in REDUCTIONS:
        dtype = DTYPES[name]
        numbers = (
            random.random(size) * 0.2 + 0.9 if op == "mul" and dtype.is_float else random.random(size) * 4
        )
        x = numbers < 2 if name == "bool" else numbers.astype(dtype.numpy)
        start = {"add": 0, "mul": 1, "max": 0, "min": 3, "or": 0, "and": 3}[op]
        out = np.full(1, start).astype(dtype.numpy)
        function = {
            "add": np.add,
            "mul": np.multiply,
            "max": np.maximum,
            "min": np.minimum,
            "or": np.bitwise_or,
            "and": np.bitwise_and,
        }[op]
        wide = x.astype(np.float64) if dtype.is_float else x
        want = function.reduce(np.concatenate([wide, out.astype(wide.dtype)]), dtype=wide.dtype)
        reductions(f"{op}_{name}", x, out, sizes=(size,))
        if dtype.is_float:
            np.testing.assert_allclose(out[0], want, rtol=2e-2 * max(1, size / 20) if name == "f16" else 1e-4)
        else:
            assert out[0] == want


def test_explicit_vectors():
    """Ramps, splats, gathers and the fold of a vector, without the vectoriser."""
    lanes = 8
    x, out = Buffer("x", i32), Buffer("out", i32, writable=True)
    squares = Call("mul", (Ramp(lanes), Ramp(lanes)), i64)
    twice = Call("add", (Load(x, squares, lanes), Splat(Load(x, const(1)), lanes)), i32)
    mask = Call("lt", (Ramp(lanes), Const(5, i64, lanes)), bool_)
    body = (
        Let(var("v", i32), const(0, i32)),
        Store(out, const(0), twice, mask),
        Store(out, const(8), Reduce("add", twice)),
        Store(out, const(9), Reduce("max", Load(x, const(3), 4))),
        Store(
            out, squares, Splat(const(5, i32), lanes), Call("eq", (Ramp(lanes), Const(4, i64, lanes)), bool_)
        ),
        Store(out, const(20), Splat(Var("v", i32), 4)),
    )
    native = Native([Kernel("k", (x, out), (), (grid(body),))])
    values = np.arange(64, dtype=np.int32) * 3
    got = np.full(24, -1, np.int32)
    native("k", values, got)
    want = np.full(24, -1, np.int32)
    sums = values[np.arange(lanes) ** 2] + values[1]
    want[:5], want[8], want[9], want[16], want[20:24] = sums[:5], sums.sum(), values[6], 5, 0
    np.testing.assert_array_equal(got, want)


def test_private_buffers():
    """A local table filled and read back, and a register accumulator."""
    table = Buffer("table", f32, 64, "local", True)
    total = Buffer("total", f32, 1, "register", True)
    i, j = var("i"), var("j")
    body = (
        Alloc(table),
        Alloc(total),
        Store(total, const(0), const(0.0, f32)),
        For(i, const(64), (Store(table, i, call("add", Load(X, i), const(1.0, f32))),), "vector"),
        For(
            j, const(64), (Update(total, const(0), "add", Load(table, call("sub", const(63), j))),), "serial"
        ),
        Store(OUT, const(0), Load(total, const(0))),
    )
    x = np.arange(64, dtype=np.float32)
    out = np.zeros(1, np.float32)
    Native([Kernel("k", (X, OUT), (), (grid(body),))])("k", x, out)
    assert out[0] == x.sum() + 64


def test_narrow_floats_accumulate_in_f32_per_step():
    out = Buffer("out", f16, writable=True)
    kernel = whole(
        "k",
        (Buffer("x", f16), out),
        loop(Update(out, const(0), "add", Load(Buffer("x", f16), INDEX)), kind="serial"),
    )
    x = np.full(50, 0.1, np.float16)
    got = np.zeros(1, np.float16)
    Native([kernel])("k", x, got, sizes=(50,))
    want = np.float16(0)
    for value in x:
        want = np.float16(np.float32(want) + np.float32(value))
    assert got[0] == want


def test_equal_kernels_share_code():
    kernels = [element_wise(n, lambda x: call("add", x, x), [f32], f32) for n in ("first", "second")]
    code = BACKEND.compile(kernels, HOST)
    assert code.entries["first"] == code.entries["second"]


def test_no_kernels_make_empty_code():
    code = BACKEND.compile([], HOST)
    assert code.blob == b"" and not code.entries and code.support["runtime"]


SHARED = Buffer("tile", f32, 16, "shared", True)
REFUSED = {
    "barrier": (Kernel("k", (), (), (grid([Barrier()]),)), "no barrier"),
    "shared": (Kernel("k", (), (), (grid([Alloc(SHARED)]),)), "tile is shared"),
    "unbound": (
        Kernel("k", (OUT,), (), (grid([Store(OUT, var("nowhere"), const(0.0, f32))]),)),
        "nowhere is read before",
    ),
    "unknown buffer": (
        Kernel("k", (), (), (grid([Store(OUT, const(0), const(0.0, f32))]),)),
        "out is neither",
    ),
    "ill-typed": (Kernel("k", (OUT,), (), (grid([Store(OUT, const(0), const(1, u8))]),)), "LLVM refuses"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_malformed_kernels_are_refused(case):
    kernel, message = REFUSED[case]
    with pytest.raises(CompileError, match=message):
        BACKEND.compile([kernel], HOST)


def test_compile_errors_show_numbered_source():
    with pytest.raises(CompileError, match=r"\n +\d+ .*store"):
        BACKEND.compile([REFUSED["ill-typed"][0]], HOST)


def test_source_stages():
    kernel = element_wise("twice", lambda x: call("add", x, x), [f32], f32)
    assert "define void @K(ptr %buffers" in BACKEND.source([kernel], HOST, "source")
    assembly = BACKEND.source([kernel], HOST, "assembly")
    assert "; kernel twice" in assembly and "vaddps" in assembly or HOST.vector_bytes < 32


@pytest.mark.parametrize("function", ["max", "min"])
def test_maximum_is_two_or_three_instructions(function):
    """The hardware's own instruction and one blend for NaN."""
    target = BACKEND.target("x86-64-v3")
    kernel = element_wise("k", lambda x, y: call(function, x, y), [f32, f32], f32)
    assembly = BACKEND.source([kernel], target, "assembly")
    assert re.search(rf"v{function}ps", assembly) and "vcmpunordps" in assembly


def test_targets():
    assert BACKEND.target("x86-64-v4").vector_bytes == 64
    assert BACKEND.target("znver4").features[-2:] == ("avx512vnni", "avx512bf16")
    assert str(BACKEND.target("x86-64-v4+avx512vnni")) == "cpu:x86-64-v4+avx512vnni"
    assert BACKEND.target("aarch64-linux-gnu").vector_bytes == 16
    with pytest.raises(Unavailable, match="expected one of x86-64, x86-64-v2"):
        BACKEND.target("pentium")
    with pytest.raises(Unavailable, match="expected avx512vnni"):
        BACKEND.target("x86-64-v3+sse9")


def test_splat_of_constant_index():
    kernel = whole("k", (X, OUT), Store(OUT, const(0), splat(Load(X, const(2)), 4)), sizes=())
    out = np.zeros(4, np.float32)
    Native([kernel])("k", np.arange(4, dtype=np.float32), out)
    assert (out == 2).all()


@pytest.mark.parametrize("arch", ["x86-64", "x86-64-v3", HOST.arch])
def test_narrowed_results_write_nothing_beyond_their_last(arch):
    target = BACKEND.target(arch)
    if target.vector_bytes > HOST.vector_bytes:
        pytest.skip("this processor lacks the instructions")
    kernels, cases = [], []
    for source, result in (("f32", "bf16"), ("f64", "f16"), ("f32", "i16"), ("f64", "i8"), ("i32", "u8")):
        for count in range(1, 20):
            x, y = Buffer("x", DTYPES[source]), Buffer("y", DTYPES[result], writable=True)
            value = Cast(Load(x, INDEX), DTYPES[result])
            body = loop(Store(y, INDEX, value), stop=const(count))
            kernels.append(Kernel(f"{source}_{result}_{count}", (x, y), (), (grid([body]),)))
            cases.append((source, result, count))
    native = Native(kernels, target)
    for kernel, (source, result, count) in zip(kernels, cases, strict=True):
        memory = np.full(64, 0x55, np.uint8)
        native(kernel.name, np.ones(32, DTYPES[source].numpy), memory)
        written = count * DTYPES[result].itemsize
        assert (memory[written:] == 0x55).all(), kernel.name
        assert (memory[:written].view(DTYPES[result].numpy) == 1).all(), kernel.name
