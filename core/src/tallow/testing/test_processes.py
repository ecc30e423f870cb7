"""Processes: artifacts open in a fresh one; a forked child goes on, or is refused in words."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np

import tallow


def child(*words) -> str:
    """What a process of `tallow.testing.child` prints."""
    command = [sys.executable, "-m", "tallow.testing.child", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_artifact_runs_in_a_fresh_process(model, device, tmp_path):
    run = tallow.compile(model.graph(), device)
    path = run.save(tmp_path / "model.tallow")
    for number, sizes in enumerate(model.sizes[:2]):
        inputs, given, made = model.inputs(sizes), tmp_path / f"in{number}.npz", tmp_path / f"out{number}.npz"
        np.savez(given, **inputs)
        child("open", path, given, made)
        with np.load(made) as found:
            for name, array in run.run(inputs).items():
                assert found[name].tobytes() == array.tobytes(), name


def test_an_executable_can_be_pickled(model, device):
    run, inputs = tallow.compile(model.graph(), device), model.inputs(model.sizes[0])
    for name, array in pickle.loads(pickle.dumps(run)).run(inputs).items():
        assert array.tobytes() == run.run(inputs)[name].tobytes(), name


def test_a_forked_child_goes_on_or_is_refused_in_words(device):
    assert child("fork", device).strip() in ("the same", "refused")
