"""Fuzzing of the readers: `python -m tallow.testing.fuzz --count 5000`.

Damaged models are loaded, compiled and run in a worker process with bounded memory. Each must work or
raise a TallowError; the worker's crash, a hang or any other exception is a finding, and its files are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import tallow
from tallow.errors import TallowError
from tallow.executable import Executable, Port
from tallow.graph import walk
from tallow.testing.mutate import mutate_bytes, mutate_json, mutate_message

FORMATS = ("onnx", "safetensors", "tallow")
MEMORY = 6 << 30  # address space of a worker; LLVM and numpy map a good part of it
PATIENCE = 60.0  # seconds for one case
SMALL = 1 << 16  # elements of inputs that a damaged model is run on
LONG = 1e10  # operations of a run that is not waited for: a model may well ask for them

Write = Callable[[random.Random], Path]


# The worker ----------------------------------------------------------------------------------------


def _onnx_cases(folder: Path, nodes: bool) -> Write:
    from tallow.testing.fuzz_models import onnx_models

    models = onnx_models(folder, nodes)

    def write(rng: random.Random) -> Path:
        model = rng.choice(models)
        content = model.SerializeToString()
        if rng.random() < 0.6:
            copy = type(model).FromString(content)
            mutate_message(copy, rng)
            content = copy.SerializeToString()
        else:
            content = mutate_bytes(content, rng)
        path = folder / "case.onnx"
        path.write_bytes(content)
        return path

    return write


def _safetensors_cases(folder: Path, nodes: bool) -> Write:
    from safetensors.numpy import save

    from tallow.testing.fuzz_models import safetensors_files

    config, tensors = safetensors_files()
    good = save(tensors)
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]

    def write(rng: random.Random) -> Path:
        settings, content = json.dumps(config), good
        match rng.randrange(4):
            case 0:
                content = mutate_bytes(good, rng)
            case 1:
                text = json.dumps(mutate_json(header, rng)).encode()
                content = len(text).to_bytes(8, "little") + text + body
            case 2:
                settings = json.dumps(mutate_json(config, rng))
            case 3:
                settings = mutate_bytes(settings.encode(), rng).decode("latin-1")
        (folder / "model.safetensors").write_bytes(content)
        (folder / "config.json").write_text(settings)
        return folder

    return write


def _tallow_cases(folder: Path, nodes: bool) -> Write:
    from tallow.testing.fuzz_models import tallow_file

    good = tallow_file(folder)
    length = int.from_bytes(good[:8], "little")
    header, body = json.loads(good[8 : 8 + length]), good[8 + length :]

    def write(rng: random.Random) -> Path:
        content = mutate_bytes(good, rng)
        if rng.random() < 0.5:
            text = json.dumps(mutate_json(header, rng)).encode()
            content = len(text).to_bytes(8, "little") + text + body
        path = folder / "case.tallow"
        path.write_bytes(content)
        return path

    return write


CASES = {"onnx": _onnx_cases, "safetensors": _safetensors_cases, "tallow": _tallow_cases}


def try_file(path: Path) -> str:
    """ "runs", "compiles" or "refused: ..." for a model that may be damaged in any way."""
    try:
        if path.suffix == ".tallow":
            return _try_run(tallow.open(path, 1))
        model = tallow.load(path)
        exe = tallow.compile(model, threads=1)
        endless = any(node.op == "loop" for node in walk(model.graph))
        return "compiles" if endless else _try_run(exe)
    except TallowError as error:
        return f"refused: {type(error).__name__}: {str(error)[:300]}"


def _try_run(exe: Executable) -> str:
    inputs = {p.name: _array(p) for p in exe.inputs}
    if any(array is None for array in inputs.values()):
        return "compiles"
    steps = exe.plan_for(dict.fromkeys(exe.compiled.program.symbols, 2)).steps
    if sum(float(s.flops) for s in steps if s.flops.isdigit()) > LONG:
        return "compiles"
    exe.run(inputs)
    return "runs"


def _array(port: Port) -> np.ndarray | None:
    """Ones for an input, each symbolic size 2; None for what is large or no tensor."""
    shape = [d if isinstance(d, int) else 2 for d in port.shape]
    if port.dtype is None or math.prod(max(d, 1) for d in shape) > SMALL:
        return None
    return np.ones(shape).astype(port.dtype.numpy)


def work(kind: str, seed: int, start: int, count: int, folder: Path, nodes: bool) -> None:
    """Cases `start` to `count`, a JSON line before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    write = CASES[kind](folder, nodes)
    for number in range(start, count):
        path = write(random.Random(f"{kind} {seed} {number}"))
        print(json.dumps([number, "started"]), flush=True)
        try:
            outcome = try_file(path)
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error)[:300]} at {_innermost(error)}"
            keep = shutil.copytree if path.is_dir() else shutil.copy
            keep(path, folder.parent / f"{folder.name}-case-{number}{path.suffix}")
        print(json.dumps([number, outcome]), flush=True)


def _innermost(error: BaseException) -> str:
    """File and line where an exception was raised."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"


# The guard -----------------------------------------------------------------------------------------


def run(
    kind: str, seed: int, count: int, folder: Path, nodes: bool = False, tell: Callable = lambda what: None
) -> tuple[dict[str, int], list[str]]:
    """(how many cases ended how, findings) of `count` cases; the files of a finding stay in the folder. `tell`
    hears of each finding when it is made, and of every 10000 cases."""
    counts: dict[str, int] = {}
    findings: list[str] = []
    number = 0
    while number < count:
        room = folder / f"{kind}-{seed}-{number}"
        room.mkdir(parents=True, exist_ok=True)
        for case, outcome in watch(_command(kind, seed, number, count, room, nodes), number, count, room):
            word = outcome.split(":")[0]
            counts[word] = counts.get(word, 0) + 1
            if word not in ("runs", "compiles", "refused"):
                findings.append(f"{kind} seed {seed} case {case}: {outcome} (files in {room})")
                tell(findings[-1])
            number = case + 1
            if number % 10000 == 0:
                tell(f"{kind}: {number} of {count}")
            if word in ("crash", "hang"):
                break
    return counts, findings


def _command(kind: str, seed: int, start: int, count: int, room: Path, nodes: bool) -> list[str]:
    options = ["--format", kind, "--seed", seed, "--count", count, "--worker", start, room]
    return [sys.executable, "-m", "tallow.testing.fuzz", *map(str, options), *(["--nodes"] if nodes else [])]


def watch(command: list[str], start: int, count: int, room: Path, patience: float = PATIENCE):
    """(case, outcome) of a worker's cases until it ends, dies ("crash") or says nothing ("hang")."""
    with open(room / "stderr", "w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        os.set_blocking(process.stdout.fileno(), False)
        current, text, waiting = start, b"", time.monotonic()
        while True:
            select.select([process.stdout], [], [], min(patience, 1.0))
            piece = process.stdout.read()
            if piece:
                waiting = time.monotonic()
                *lines, text = (text + piece).split(b"\n")
                for line in lines:
                    current, outcome = json.loads(line)
                    if outcome != "started":
                        yield current, outcome
                        current += 1
            elif piece == b"":
                process.wait()
                if current < count:
                    yield (
                        current,
                        f"crash: exit code {process.returncode}: {(room / 'stderr').read_text()[-500:]}",
                    )
                return
            elif time.monotonic() - waiting > patience:
                process.kill()
                process.wait()
                yield current, f"hang: nothing for {patience:.0f} s"
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--format", choices=FORMATS, action="append", dest="formats")
    parser.add_argument("--count", type=int, default=1000, help="cases of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", action="store_true", help="damage ONNX's own node tests too")
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    parser.add_argument("--worker", nargs=2, metavar=("START", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        start, folder = options.worker
        work(options.formats[0], options.seed, int(start), options.count, Path(folder), options.nodes)
        return 0
    folder = options.keep or Path(tempfile.mkdtemp(prefix="tallow-fuzz-"))
    failed = 0
    for kind in options.formats or FORMATS:
        tell = partial(print, flush=True)
        counts, findings = run(kind, options.seed, options.count, folder, options.nodes, tell)
        tell(f"{kind}: {', '.join(f'{word} {n}' for word, n in sorted(counts.items()))}")
        failed += len(findings)
    if not failed and not options.keep:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
