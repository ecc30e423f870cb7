"""Search for differences from onnxruntime: `python tests/differential/search.py --minutes 20 --seed 0`.

Each worker goes through seeds of its own; one that dies is a finding too. Models with findings are kept in
--output with their seed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
import warnings
from collections import Counter
from pathlib import Path
from queue import Empty

import onnx

BATCH = 50


def _batch(first: int, queue) -> None:
    warnings.simplefilter("ignore")
    from comparing import check, draft_of

    operators: Counter[str] = Counter()
    for seed in range(first, first + BATCH):
        queue.put(("drafting", seed, None))
        draft = draft_of(seed)
        operators.update(node.op_type for node in draft.nodes)
        queue.put(("checking", seed, None))
        found = check(draft)
        if found is not None:
            queue.put(("found", seed, (found.what, found.model.SerializeToString())))
    queue.put(("done", first, operators))


def _next(queue, worker):
    """The next message of a worker; "lost" when it has died or says nothing for two minutes."""
    for _ in range(240):
        try:
            return queue.get(timeout=0.5)
        except Empty:
            if not worker.is_alive() and queue.empty():
                break
    return "lost", None, None


def search(minutes: float, seed: int, output: Path) -> int:
    """Findings of so many minutes, by as many workers as there are cores."""
    os.environ.setdefault("TALLOW_CACHE", str(output / "cache"))
    output.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    end, findings, seen = time.monotonic() + 60 * minutes, 0, Counter()
    count, stage = 0, ""
    while time.monotonic() < end:
        queue, at = context.Queue(), seed
        worker = context.Process(target=_batch, args=(seed, queue))
        worker.start()
        finished = False
        while not finished:
            kind, number, what = _next(queue, worker)
            if kind in ("drafting", "checking"):
                at, stage = number, kind
                count += kind == "checking"
            elif kind == "found":
                findings += 1
                print(f"seed {number}: {what[0]}", flush=True)
                (output / f"{number}.onnx").write_bytes(what[1])
            else:
                finished = True
                if kind == "done":
                    seen += what
                elif stage == "checking":
                    findings += 1
                    print(f"seed {at}: the process died or hung", flush=True)
        worker.kill()
        worker.join()
        seed = seed + BATCH if kind == "done" else at + 1  # where onnxruntime itself died, go on behind it
    print(f"{count} graphs, {sum(seen.values())} nodes of {len(seen)} operators, {findings} findings")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("differences"))
    options = parser.parse_args()
    assert onnx.defs.onnx_opset_version() >= 22
    return 1 if search(options.minutes, options.seed, options.output) else 0


if __name__ == "__main__":
    raise SystemExit(main())
