"""ONNX's own node tests through Tallow's public API: `python -m tallow.testing.onnx_nodes`.

Cases run in worker processes, so that a crash costs one case. Tolerances are the suite's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

import tallow
from tallow.errors import TallowError

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


def cases(kind: str) -> list:
    """All cases of a kind, in order of their names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(load_model_tests(kind=kind), key=lambda c: c.name)


def _arrays(values) -> list:
    return [_array(v) for v in values]


def _array(value):
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, (list, np.ndarray)) or value is None:
        return value
    return np.asarray(value)


def _data_sets(case):
    """(inputs, outputs) pairs: in memory for node tests, files for the others."""
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield _arrays(inputs), _arrays(outputs)
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield tuple(
            [_read(f) for f in sorted(folder.glob(f"{side}_*.pb"), key=_number)]
            for side in ("input", "output")
        )


def _number(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _read(path: Path) -> np.ndarray:
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def run_case(case, device: str) -> tuple[str, str]:
    """("pass" | "mismatch" | "refused" | "error", reason) of one case."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            if case.model is not None:
                onnx.save(case.model, path)
            else:
                path = Path(case.model_dir, "model.onnx")
            exe = tallow.compile(path, device)
            for inputs, outputs in _data_sets(case):
                results = exe.run(dict(zip((p.name for p in exe.inputs), inputs, strict=True)))
                for got, want in zip(results.values(), outputs, strict=True):
                    _same(got, want, case.rtol, case.atol)
    except AssertionError as error:
        return "mismatch", str(error).strip().replace("\n", " ")[:200]
    except TallowError as error:
        return "refused", str(error).replace("\n", " ")[:200]
    except Exception as error:  # a fault of ours, counted apart
        return "error", f"{type(error).__name__}: {error}"[:200]
    return "pass", ""


def _same(got, want, rtol: float, atol: float) -> None:
    if isinstance(want, list):
        assert len(got) == len(want), f"{len(got)} elements, expected {len(want)}"
        for a, b in zip(got, want, strict=True):
            _same(a, b, rtol, atol)
        return
    if want is None:
        assert got is None
        return
    want = np.asarray(want)
    if want.dtype == object or want.dtype.kind in "US":
        np.testing.assert_array_equal(np.asarray(got, object), want.astype(object))
        return
    assert got.dtype == want.dtype, f"dtype {got.dtype}, expected {want.dtype}"
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if want.dtype.name == "bfloat16":
        rtol = max(rtol, 2**-6)  # as in the suite's own runner
    if want.dtype.kind == "V" or want.dtype.name.startswith(
        ("bfloat", "float8", "float4", "int4", "uint4", "int2", "uint2")
    ):
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol, atol)


def _work(kind: str, device: str, start: int, step: int) -> None:
    """Worker: every `step`-th case from `start` on, a JSON line each."""
    warnings.simplefilter("ignore")
    for case in cases(kind)[start::step]:
        outcome, reason = run_case(case, device)
        print(json.dumps([case.name, outcome, reason]), flush=True)


def run_suite(kind: str, device: str, workers: int) -> dict[str, tuple[str, str]]:
    """The outcome of every case. A worker that dies is started again after the case it died in."""
    names = [c.name for c in cases(kind)]
    found: dict[str, tuple[str, str]] = {}
    command = [
        sys.executable,
        "-m",
        "tallow.testing.onnx_nodes",
        "--kind",
        kind,
        "--device",
        device,
        "--worker",
    ]
    running = [
        subprocess.Popen([*command, str(w), str(workers)], stdout=subprocess.PIPE, text=True)
        for w in range(workers)
    ]
    for number, process in enumerate(running):
        start = number
        while True:
            for line in process.stdout:
                name, outcome, reason = json.loads(line)
                found[name] = (outcome, reason)
                start = names.index(name) + workers
            process.wait()
            if process.returncode == 0 or start >= len(names):
                break
            found[names[start]] = ("error", f"the process died ({process.returncode})")
            start += workers
            process = subprocess.Popen(
                [*command, str(start), str(workers)], stdout=subprocess.PIPE, text=True
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=KINDS, default="node")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minimum", type=int, default=0, help="fail when fewer cases pass")
    parser.add_argument("--failures", action="store_true", help="list what does not pass")
    parser.add_argument("--worker", nargs=2, type=int, metavar=("START", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options.kind, options.device, *options.worker)
        return 0
    found = run_suite(options.kind, options.device, options.workers)
    counts = Counter(outcome for outcome, _ in found.values())
    if options.failures:
        for name, (outcome, reason) in sorted(found.items()):
            if outcome != "pass":
                print(f"{outcome:9} {name}: {reason}")
    print(f"{options.kind} tests on {options.device}: {counts['pass']} of {len(found)} pass, {dict(counts)}")
    failed = counts["pass"] < options.minimum
    print(f"{counts['pass']} passed, {int(failed)} failed")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
