"""The matrix multiplication tile in the kernel language: right, and all of it in registers."""

import re

import numpy as np
import pytest
from cpu_support import BACKEND, HOST, Native, grid

from tallow.backend import Target
from tallow.dtype import f32
from tallow.kernel.build import add, call, const, mul, var
from tallow.kernel.grammar import Alloc, Buffer, For, Kernel, Load, Store, Update

SHAPES = {64: (14, 32), 32: (6, 16), 16: (3, 12)}  # vector bytes -> rows and columns of the register tile
UNROLLED = 4


def tile_kernel(rows: int, columns: int) -> Kernel:
    """c[g] = packed a (depth x rows) . packed b[g] (depth x columns), one tile for each grid step."""
    a, b = Buffer("a", f32), Buffer("b", f32)
    c = Buffer("c", f32, writable=True)
    tile = Buffer("tile", f32, rows * columns, "register", True)
    depth, g, k, u, m, n = (var(x) for x in ("depth", "g", "k", "u", "m", "n"))
    at = add(mul(m, const(columns)), n)
    step = add(k, u)
    product = call(
        "mul",
        Load(a, add(mul(step, const(rows)), m)),
        Load(b, add(mul(add(mul(g, depth), step), const(columns)), n)),
    )

    def each(*body):
        return For(m, const(rows), (For(n, const(columns), body, "vector"),), "unroll")

    inner = For(u, const(UNROLLED), (each(Update(tile, at, "add", product)),), "unroll")
    body = (
        Alloc(tile),
        each(Store(tile, at, const(0.0, f32))),
        For(k, depth, (inner,), "serial", const(0), UNROLLED),
        each(Store(c, add(mul(g, const(rows * columns)), at), Load(tile, at))),
    )
    return Kernel("tile", (a, b, c), (depth,), (grid(body, var("tiles")),))


def inner_loop(assembly: str) -> list[str]:
    """The lines of the block with the most multiplications."""
    blocks = re.split(r"\n\.LBB", assembly)
    return max(blocks, key=lambda b: len(re.findall(r"fmadd|fmla|mulps", b))).splitlines()


@pytest.mark.parametrize("arch", ["x86-64-v3", "x86-64-v4", "znver5"])
def test_nothing_is_spilled(arch):
    target = BACKEND.target(arch)
    rows, columns = SHAPES[target.vector_bytes]
    lines = inner_loop(BACKEND.source([tile_kernel(rows, columns)], target, "assembly"))
    fused = sum("fmadd" in line for line in lines)
    assert fused == rows * columns // (target.vector_bytes // 4) * UNROLLED
    assert not [line for line in lines if "rsp)" in line]
    assert len(lines) < 2.2 * fused


def multiply(target: Target, tiles: int, depth: int):
    rows, columns = SHAPES[target.vector_bytes]
    random = np.random.default_rng(0)
    a = random.standard_normal((depth, rows)).astype(np.float32)
    b = random.standard_normal((tiles, depth, columns)).astype(np.float32)
    c = np.zeros((tiles, rows, columns), np.float32)
    return Native([tile_kernel(rows, columns)], target), a, b, c


@pytest.mark.parametrize("arch", [HOST.arch, "x86-64-v3", "x86-64"])
def test_tiles_are_right(arch):
    if BACKEND.target(arch).vector_bytes > HOST.vector_bytes:
        pytest.skip("this processor lacks the instructions")
    native, a, b, c = multiply(BACKEND.target(arch), 5, 64)
    native("tile", a, b, c, sizes=(64,), grid=5, threads=2)
    want = np.einsum("km,gkn->gmn", a.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(c, want, rtol=1e-4, atol=1e-4)
