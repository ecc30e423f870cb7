"""One engine in a process of its own: answers lines on stdin, idles between them.

`python -m benchmarks.worker ENGINE MODEL THREADS DIMS` loads the model, prints what that took, and then
prints the seconds of each batch of runs it is asked for. The first answer also writes the results.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np


def tallow_engine(path: str, threads: int, dims: dict):
    import tallow

    exe = tallow.compile(path, threads=threads)
    shapes = {p.name: [d if isinstance(d, int) else dims.get(d, 1) for d in p.shape] for p in exe.inputs}
    return {p.name: (shapes[p.name], p.dtype.numpy) for p in exe.inputs}, exe.run


def onnxruntime_engine(path: str, threads: int, dims: dict):
    import onnxruntime

    kinds = {"tensor(float)": "f4", "tensor(int64)": "i8", "tensor(int32)": "i4", "tensor(double)": "f8"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ports = {
        i.name: ([d if isinstance(d, int) else dims.get(d, 1) for d in i.shape], np.dtype(kinds[i.type]))
        for i in session.get_inputs()
    }
    names = [o.name for o in session.get_outputs()]
    return ports, lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


ENGINES = {"tallow": tallow_engine, "onnxruntime": onnxruntime_engine}


def make_inputs(ports: dict) -> dict[str, np.ndarray]:
    """Seeded noise; integers are small positive numbers, good as token ids and masks."""
    rng = np.random.default_rng(0)
    made = {}
    for name, (shape, carrier) in sorted(ports.items()):
        noise = rng.standard_normal(shape) if carrier.kind == "f" else rng.integers(0, 2, shape)
        made[name] = noise.astype(carrier)
    return made


def main() -> None:
    engine, path, threads, dims, output = sys.argv[1:6]
    start = time.perf_counter()
    ports, run = ENGINES[engine](path, int(threads), json.loads(dims))
    inputs = make_inputs(ports)
    results = run(inputs)
    first = time.perf_counter() - start
    np.savez(Path(output), **{k: v for k, v in results.items() if isinstance(v, np.ndarray)})
    print(json.dumps({"first": first}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            run(inputs)
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": min(times), "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
