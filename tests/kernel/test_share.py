"""Sharing: kernels that differ in numbers alone are one kernel, which means the same with every number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.dtype import f32, i64
from tallow.interpret import interpret
from tallow.kernel.build import add, const, mul
from tallow.kernel.grammar import (
    Alloc,
    Barrier,
    Buffer,
    Const,
    Copy,
    Exchange,
    For,
    Fragment,
    Kernel,
    Load,
    LoadMatrix,
    Multiply,
    Store,
    StoreMatrix,
    Update,
    Var,
)
from tallow.kernel.verify import verify
from tallow.lower.share import share
from tallow.schedule.program import KernelStep

X, Y = Buffer("x", f32), Buffer("y", f32, writable=True)


def sums(name: str, rows: int, columns: int, variable: str = "i") -> Kernel:
    """Row sums of 2 * x by way of scratch memory of `columns` elements."""
    r, i, j = Var("r"), Var(variable), Var("j")
    line, total = Buffer("line", f32, columns, "local", True), Buffer("total", f32, 1, "register", True)
    at = add(mul(r, const(columns)), i)
    body = (
        Alloc(line),
        For(i, const(columns), (Store(line, i, Load(X, at)),), "vector"),
        Alloc(total),
        Store(total, const(0), Const(0.0, f32)),
        For(j, const(columns), (Update(total, const(0), "add", Load(line, j)),)),
        For(j, const(columns), (Update(total, const(0), "add", Load(X, add(mul(r, const(columns)), j))),)),
        Store(Y, r, Load(total, const(0))),
    )
    return Kernel(name, (X, Y), (), (For(r, const(rows), body, "grid"),))


def run(kernel: Kernel, rows: int, columns: int, numbers: tuple[int, ...]) -> np.ndarray:
    x = np.arange(rows * columns, dtype=np.float32)
    y = np.zeros(rows, np.float32)
    sizes = {v.name: n for v, n in zip(kernel.sizes, numbers, strict=True)}
    interpret(kernel, {"x": x, "y": y}, sizes, 0, rows)
    return y


def test_numbers_that_differ_are_passed():
    shapes = {"a": (3, 5), "b": (2, 7), "c": (4, 4)}
    shared = share({name: sums(name, *shape) for name, shape in shapes.items()})
    assert {kernel.name for kernel, _ in shared.values()} == {"a"}
    for name, (rows, columns) in shapes.items():
        kernel, numbers = shared[name]
        verify(kernel)
        want = 2 * np.arange(rows * columns).reshape(rows, columns).sum(1)
        np.testing.assert_array_equal(run(kernel, rows, columns, numbers), want)
    (line,) = {s.buffer for s in shared["c"][0].grid.body if isinstance(s, Alloc)} - {
        Buffer("total", f32, 1, "register", True)
    }
    assert line.size == 7  # what the largest needs


def test_numbers_that_all_agree_on_stay():
    shared = share({"a": sums("a", 3, 5), "b": sums("b", 4, 5)})
    kernel, numbers = shared["a"]
    assert len(kernel.sizes) == 1 and numbers == (3,) and shared["b"][1] == (4,)


def test_multiples_need_no_parameter_of_their_own():
    def copies(name: str, pitch: int) -> Kernel:
        r = Var("r")
        body = tuple(Store(Y, add(r, const(k * pitch)), Load(X, r)) for k in (3, 1, 2))
        return Kernel(name, (X, Y), (), (For(r, const(2), body, "grid"),))

    shared = share({"a": copies("a", 10), "b": copies("b", 16)})
    assert shared["a"][1] == (10,) and shared["b"][1] == (16,)


def test_a_parameter_takes_no_name_that_is_there():
    shared = share({"a": sums("a", 3, 5, "number_0"), "b": sums("b", 2, 6, "number_0")})
    kernel, numbers = shared["b"]
    assert "number_0" not in {size.name for size in kernel.sizes}
    np.testing.assert_array_equal(run(kernel, 2, 6, numbers), [30, 102])


def turned_blocks(name: str, pitch: int, matrices: int) -> Kernel:
    """Each of two threads exchanges an element of a line, and copies pairs by way of scratch memory; then both
    square a matrix of 2 x 2 for as often as they are told."""
    t, there, i = Var("t"), Var("there", f32), Var("i")
    line, shared = Buffer("line", f32, pitch, "local", True), Buffer("shared", f32, 2 * pitch, "shared", True)
    sums, left, right = (Fragment(role, f32, role, 2, 2, 2) for role in ("sum", "left", "right"))
    mine = mul(t, const(pitch))
    body = (
        Alloc(line),
        Exchange(there, Load(X, add(mine, const(pitch - 1))), 1),
        For(i, const(pitch // 2), (Copy(line, mul(i, const(2)), X, add(mine, mul(i, const(2))), 2),)),
        Store(line, const(0), there),
        For(i, const(pitch), (Store(shared, add(mine, i), Load(line, i)),)),
        Barrier(),
        *map(Alloc, (sums, left, right)),
        LoadMatrix(left, shared, const(pitch - 2), 2),
        LoadMatrix(right, shared, const(pitch - 2), 2),
        For(i, const(matrices), (Multiply(sums, left, right),)),
        StoreMatrix(shared, const(0), 2, sums),
        Barrier(),
        Store(Y, t, Load(shared, mul(t, const(3)))),
    )
    group = For(t, const(2), body, "group")
    return Kernel(name, (X, Y), (), (For(Var("r"), const(1), (Alloc(shared), group), "grid"),))


def test_what_threads_do_together_is_shared():
    kernels = {"a": turned_blocks("a", 4, 1), "b": turned_blocks("b", 4, 3)}
    shared = share(kernels)
    assert {kernel.name for kernel, _ in shared.values()} == {"a"}
    x = np.arange(1, 9, dtype="f4")
    lines = np.array([[x[7], 2, 3, 4], [x[3], 6, 7, 8]])
    matrix = lines.ravel()[2:6].reshape(2, 2)
    for name, times in (("a", 1), ("b", 3)):
        kernel, numbers = shared[name]
        verify(kernel)
        y = np.zeros(2, "f4")
        interpret(kernel, {"x": x, "y": y}, {v.name: n for v, n in zip(kernel.sizes, numbers, strict=True)})
        np.testing.assert_array_equal(y, times * np.diag(matrix @ matrix))


@pytest.mark.parametrize("change", ["unroll", "register"])
def test_what_is_written_out_stays_a_number(change):
    def kernel(name: str, count: int) -> Kernel:
        r, i = Var("r"), Var("i")
        if change == "unroll":
            body = (For(i, const(count), (Store(Y, r, Load(X, i)),), "unroll"),)
        else:
            buffer = Buffer("t", f32, count, "register", True)
            body = (Alloc(buffer), Store(buffer, const(count - 1), Load(X, r)))
        return Kernel(name, (X, Y), (), (For(r, const(2), body, "grid"),))

    shared = share({"a": kernel("a", 2), "b": kernel("b", 3)})
    assert shared["a"][0].name == "a" and shared["b"][0].name == "b"


def test_other_forms_and_other_data_stay_apart():
    a = sums("a", 3, 5)
    other = replace(a, name="b", parameters=(X, replace(Y, dtype=i64)))
    assert [kernel.name for kernel, _ in share({"a": a, "b": other}).values()] == ["a", "b"]


def layers(widths: tuple[int, ...]):
    """A chain of products with bias and relu, and their results side by side."""
    b = Builder()
    rng = np.random.default_rng(0)
    x = b.input("x", "f32", ["n", widths[0]])
    found = [x]
    for before, after in zip(widths, widths[1:], strict=False):
        w = b.constant(rng.normal(size=(before, after)).astype("f4") / before)
        found.append(b.relu(b.add(b.matmul(found[-1], w), b.constant(rng.normal(size=after).astype("f4")))))
        found.append(b.softmax(found[-1], axis=1))
    return b.finish({"y": b.concat(*found, axis=1)})


@pytest.mark.parametrize("device", ["cpu", "cpu:x86-64-v3", "cpu:x86-64", "fake"])
def test_layers_of_several_widths_share_code(device, rng):
    widths = (48, 64, 80, 64, 112) if device != "fake" else (4, 5, 6, 5, 7)
    graph = layers(widths)
    run = tallow.compile(graph, device)
    kernels = {s.entry for s in run.compiled.program.steps if isinstance(s, KernelStep)}
    assert len(kernels) <= len([s for s in run.compiled.program.steps if isinstance(s, KernelStep)]) - 3
    for n in (0, 1, 3, 17) if device != "fake" else (1, 3):
        inputs = {"x": rng.normal(size=(n, widths[0])).astype("f4")}
        got, want = run.run(inputs)["y"], tallow.evaluate(graph, inputs)["y"]
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
