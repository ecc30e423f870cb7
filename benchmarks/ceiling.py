"""What one core can do: a process that multiplies matrices through OpenBLAS, or copies a large array, when asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

SIZE = 768  # of the square matrices
FLOATS = 16 << 20  # copied: 64 MB, beyond any cache of one core


class Ceiling:
    """The process, with OpenBLAS on one thread and choosing its kernels itself."""

    def __init__(self):
        self.best: dict[str, float] = {}  # of all answers so far
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("OPENBLAS_CORETYPE", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ceiling"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )

    def ask(self, kind: str) -> float:
        """Operations, or bytes read and written, in one second: the best of a few tries now."""
        self._process.stdin.write(kind + "\n")
        self._process.stdin.flush()
        rate = float(self._process.stdout.readline())
        self.best[kind] = max(rate, self.best.get(kind, 0.0))
        return rate

    def __enter__(self) -> Ceiling:
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    import numpy as np

    noise = np.random.default_rng(0).standard_normal
    a, b, product = (
        noise((SIZE, SIZE), np.float32),
        noise((SIZE, SIZE), np.float32),
        np.empty((SIZE, SIZE), np.float32),
    )
    source, target = np.ones(FLOATS, np.float32), np.zeros(FLOATS, np.float32)
    jobs = {
        "sgemm": (2 * SIZE**3, lambda: np.matmul(a, b, out=product)),
        "copy": (2 * source.nbytes, lambda: np.copyto(target, source)),
    }
    for line in sys.stdin:
        amount, work = jobs[line.strip()]
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            work()
            times.append(time.perf_counter() - begin)
        print(amount / min(times), flush=True)


if __name__ == "__main__":
    main()
