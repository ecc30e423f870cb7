"""Threads of a group in the interpreter: what is their own, what they share, and where they meet."""

from __future__ import annotations

import numpy as np
import pytest

from tallow.dtype import f32
from tallow.errors import VerifyError
from tallow.interpret import interpret
from tallow.kernel import build
from tallow.kernel.build import const
from tallow.kernel.grammar import Alloc, Barrier, Buffer, For, If, Kernel, Load, Store, Update, Var
from tallow.kernel.verify import verify

X, Y = Buffer("x", f32), Buffer("y", f32, writable=True)
SHARED, OWN = Buffer("shared", f32, 8, "shared", True), Buffer("own", f32, 1, "register", True)
G, T, K, N = Var("g"), Var("t"), Var("k"), Var("n")


def of_eight(*body) -> Kernel:
    """One group of eight threads, with memory that they share."""
    group = For(T, const(8), tuple(body), "group")
    return Kernel("k", (X, Y), (N,), (For(G, const(1), (Alloc(SHARED), group), "grid"),))


def run(kernel: Kernel, x: np.ndarray, n: int = 8) -> np.ndarray:
    verify(kernel)
    y = np.zeros(8, "f4")
    interpret(kernel, {"x": x, "y": y}, {"n": n})
    return y


def test_threads_see_after_a_barrier_what_others_wrote_before_it():
    turned = build.sub(const(7), T)
    kernel = of_eight(Store(SHARED, T, Load(X, T)), Barrier(), Store(Y, T, Load(SHARED, turned)))
    x = np.arange(8, dtype="f4")
    np.testing.assert_array_equal(run(kernel, x), x[::-1])


def test_each_thread_has_memory_and_variables_of_its_own():
    """Sums in a loop with barriers, of what the next thread has shared each time."""
    following = build.mod(build.add(T, K), const(8))
    loop = For(K, N, (Update(OWN, const(0), "add", Load(SHARED, following)), Barrier()))
    kernel = of_eight(
        Alloc(OWN),
        Store(OWN, const(0), const(0, f32)),
        Store(SHARED, T, Load(X, T)),
        Barrier(),
        loop,
        Store(Y, T, Load(OWN, const(0))),
    )
    x = np.arange(8, dtype="f4")
    np.testing.assert_array_equal(
        run(kernel, x, 3), [x[t] + x[(t + 1) % 8] + x[(t + 2) % 8] for t in range(8)]
    )


@pytest.mark.parametrize(
    "body",
    [
        (If(build.less(T, const(4)), (Barrier(),)),),
        (If(build.less(T, const(4)), (Barrier(),), (Barrier(), Barrier())),),
        (For(K, T, (Barrier(),)),),
    ],
    ids=["some do", "elsewhere", "as often as they are numbered"],
)
def test_threads_that_do_not_meet_are_a_fault(body):
    with pytest.raises(VerifyError, match="threads of a group do not meet at the same place"):
        run(of_eight(*body), np.zeros(8, "f4"))
