"""A process of the kit: `open ARTIFACT INPUTS RESULTS` runs an artifact, `fork DEVICE` runs on in a forked child."""

from __future__ import annotations

import os
import sys
import time

import numpy as np

import tallow
from tallow.testing.small_models import MODELS

PATIENCE = 60.0  # seconds for a child that may hang


def open_artifact(path: str, given: str, made: str) -> None:
    with np.load(given) as inputs:
        np.savez(made, **tallow.open(path).run(dict(inputs)))


def fork(device: str) -> str:
    """ "the same", "refused" (by an error that speaks of forks), or what went wrong."""
    model = MODELS[0]
    run, inputs = tallow.compile(model.graph(), device), model.inputs(model.sizes[0])
    before = {name: array.tobytes() for name, array in run.run(inputs).items()}
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        try:
            same = {n: a.tobytes() for n, a in run.run(inputs).items()} == before
            verdict = "the same" if same else "the child gives other results"
        except tallow.TallowError as error:
            verdict = "refused" if "fork" in str(error) else f"an error without a word on forks: {error}"
        except BaseException as error:
            verdict = f"{type(error).__name__}: {error}"
        os.write(writer, verdict.encode())
        os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + PATIENCE
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(process, 9)
            return "the child hangs"
        time.sleep(0.01)
    return os.read(reader, 4096).decode() or "the child has died"


def main(words: list[str]) -> None:
    if words[0] == "open":
        open_artifact(*words[1:])
    else:
        print(fork(words[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
