"""Roofline: what this machine can reach, measured by numpy in a process of its own.

The peak is that of numpy's float32 matrix product, the bandwidth that of copying arrays larger than any
cache, reads and writes counted. A step whose operands stay in cache can be faster than that.
Source: Williams, Waterman and Patterson, "Roofline", 2009.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import cache

import numpy as np

from tallow.errors import Unavailable

SIZE, BYTES, ROUNDS = 1024, 64 << 20, 5
_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Roofline:
    """FLOP/s of float32 products and bytes/s of copies, for a number of threads."""

    flops: float
    bandwidth: float
    threads: int

    def least_seconds(self, flops: int, moved: int) -> float:
        """The least time that so much arithmetic and traffic takes."""
        return max(flops / self.flops, moved / self.bandwidth)

    def limit(self, flops: int, moved: int) -> str:
        """What bounds a step: "compute" or "memory"."""
        return "compute" if flops / self.flops > moved / self.bandwidth else "memory"

    def __str__(self) -> str:
        return (
            f"roofline: {self.flops / 1e9:.0f} GFLOP/s (numpy's f32 product) and "
            f"{self.bandwidth / 1e9:.1f} GB/s (copies), measured with {self.threads} threads"
        )


@cache
def measure_roofline(threads: int) -> Roofline:
    """The roofline of this machine, measured once for each number of threads."""
    command = [sys.executable, "-m", "tallow.roofline", str(threads)]
    environment = os.environ | {name: str(threads) for name in _POOLS}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return Roofline(**json.loads(done.stdout), threads=threads)
    except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the roofline cannot be measured ({error}): profile with roofline=False") from None


def _best(work) -> float:
    """The least seconds of a few rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _copy(threads: int) -> float:
    parts = [np.ones(BYTES // threads, np.uint8) for _ in range(2 * threads)]
    pairs = list(zip(parts[::2], parts[1::2], strict=True))

    def work() -> None:
        workers = [threading.Thread(target=np.copyto, args=pair) for pair in pairs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return _best(work)


def main() -> None:
    threads = int(sys.argv[1])
    x = np.ones((SIZE, SIZE), np.float32)
    out = np.empty_like(x)
    seconds = _best(lambda: np.matmul(x, x, out=out))
    found = {"flops": 2 * SIZE**3 / seconds, "bandwidth": 2 * BYTES / _copy(threads)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
