"""`python -m benchmarks [MODEL.onnx[,NAME=SIZE...]] ...`: Tallow against onnxruntime, interleaved.

Each engine has a process of its own and they take turns in short rounds; the ratio is the median over
rounds of (onnxruntime's time / Tallow's time) of the same round. Without models, the CNNs that the onnx
package ships are built with seeded weights. Results are compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from math import exp, log
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.models import LIGHT, build_light

ROUNDS, SECONDS = 15, 0.25
ENGINES = ("tallow", "onnxruntime")


class Engine:
    """A worker process of one engine."""

    def __init__(self, name: str, model: str, threads: int, dims: dict, folder: Path):
        self.output = folder / f"{name}.npz"
        words = [
            sys.executable,
            "-m",
            "benchmarks.worker",
            name,
            model,
            str(threads),
            json.dumps(dims),
            str(self.output),
        ]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first = self._answer()["first"]

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args[3]} failed on {self.process.args[4]}")
        return json.loads(line)

    def ask(self, runs: int) -> dict:
        self.process.stdin.write(f"{runs}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(model: str, dims: dict, threads: int) -> dict:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        engines = [Engine(name, model, threads, dims, Path(folder)) for name in ENGINES]
        difference = _difference(*(np.load(e.output) for e in engines))
        runs = [max(1, int(SECONDS / max(e.ask(1)["seconds"], 1e-6))) for e in engines]
        rounds = [[e.ask(n) for e, n in zip(engines, runs, strict=True)] for _ in range(ROUNDS)]
        for e in engines:
            e.close()
    ours, theirs = ([r[i]["seconds"] for r in rounds] for i in (0, 1))
    return {
        "model": Path(model).stem,
        "threads": threads,
        "tallow_ms": min(ours) * 1e3,
        "onnxruntime_ms": min(theirs) * 1e3,
        "ratio": median(t / o for o, t in zip(ours, theirs, strict=True)),
        "first_s": [e.first for e in engines],
        "peak_mb": [rounds[-1][i]["peak"] for i in (0, 1)],
        "difference": difference,
    }


def _difference(ours, theirs) -> float:
    """Largest difference relative to the largest value, over the results both give."""
    worst = 0.0
    for a, b in zip((ours[n] for n in ours.files), (theirs[n] for n in theirs.files), strict=True):
        if a.dtype.kind == "f" and a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", type=Path, help="also write the rows here")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or [str(build_light(name, Path(folder))) for name in LIGHT]
        print(
            "| model | threads | Tallow ms | onnxruntime ms | ratio | first result s | peak MB | difference |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for model in models:
            path, *sizes = model.split(",")
            dims = {n: int(s) for n, s in (size.split("=") for size in sizes)}
            for threads in options.threads:
                row = compare(path, dims, threads)
                rows.append(row)
                first, peak = (
                    "{:.2f} / {:.2f}".format(*row["first_s"]),
                    "{:.0f} / {:.0f}".format(*row["peak_mb"]),
                )
                times = f"{row['tallow_ms']:.2f} | {row['onnxruntime_ms']:.2f} | {row['ratio']:.2f}x"
                print(
                    f"| {row['model']} | {threads} | {times} | {first} | {peak} | {row['difference']:.0e} |",
                    flush=True,
                )
    print(f"geometric mean of the ratios: {exp(sum(log(r['ratio']) for r in rows) / len(rows)):.2f}x")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
