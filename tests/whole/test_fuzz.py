"""Damaged models of every format either work or are refused in words; `tox -e fuzz` tries many more."""

from __future__ import annotations

import json
import random
import sys

import onnx
import pytest

from tallow.testing import fuzz
from tallow.testing.fuzz_models import onnx_models
from tallow.testing.mutate import mutate_bytes, mutate_json, mutate_message


@pytest.mark.parametrize("kind", fuzz.FORMATS)
def test_damaged_files_never_crash_or_hang(kind, tmp_path):
    counts, findings = fuzz.run(kind, seed=20, count=200, folder=tmp_path)
    assert not findings
    assert sum(counts.values()) == 200 and counts["refused"] > 20 and counts["runs"] > 5, counts


def said(number: int, outcome: str) -> str:
    return f"print({json.dumps(json.dumps([number, outcome]))}, flush=True)"


def watched(tmp_path, program: str, count=2, patience=5.0) -> list[tuple[int, str]]:
    return list(fuzz.watch([sys.executable, "-c", program], 0, count, tmp_path, patience))


def test_the_guard_sees_a_crash_and_where_it_was(tmp_path):
    done = watched(
        tmp_path, f"{said(0, 'started')}; {said(0, 'runs')}; {said(1, 'started')}; import os; os.abort()"
    )
    assert done[0] == (0, "runs") and done[1][0] == 1 and done[1][1].startswith("crash: exit code -6")


def test_the_guard_sees_a_hang(tmp_path):
    done = watched(tmp_path, f"{said(0, 'started')}; import time; time.sleep(60)", patience=0.5)
    assert done == [(0, "hang: nothing for 0 s")]


def test_the_guard_goes_on_after_a_finding(tmp_path, monkeypatch):
    """The worker dies in case 1 of 3; the next one starts with case 2."""

    def command(kind, seed, start, count, room, nodes):
        lines = {0: [said(0, "started"), said(0, "runs"), said(1, "started"), "import os; os.abort()"]}
        return [
            sys.executable,
            "-c",
            "; ".join(lines.get(start, [said(2, "started"), said(2, "TypeError: x")])),
        ]

    monkeypatch.setattr(fuzz, "_command", command)
    counts, findings = fuzz.run("onnx", 0, 3, tmp_path)
    assert counts == {"runs": 1, "crash": 1, "TypeError": 1}
    assert [f.split(":")[0] for f in findings] == ["onnx seed 0 case 1", "onnx seed 0 case 2"]


def test_the_worker_reports_faults_and_keeps_their_files(tmp_path, monkeypatch, capsys):
    def write(rng):
        (tmp_path / "room" / "case.onnx").write_bytes(b"content")
        return tmp_path / "room" / "case.onnx"

    (tmp_path / "room").mkdir()
    monkeypatch.setitem(fuzz.CASES, "onnx", lambda folder, nodes: write)
    monkeypatch.setattr(fuzz.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(fuzz, "try_file", lambda path: 1 / 0)
    fuzz.work("onnx", 0, 0, 1, tmp_path / "room", False)
    assert "ZeroDivisionError: division by zero at " in capsys.readouterr().out
    assert (tmp_path / "room-case-0.onnx").read_bytes() == b"content"


def test_the_seeds_are_sound(tmp_path):
    """Undamaged they run, so that what is tried afterwards gets deep."""
    for model in onnx_models(tmp_path, nodes=False):
        path = tmp_path / "seed.onnx"
        onnx.save(model, path)
        assert fuzz.try_file(path) in ("runs", "compiles")


def test_mutations_change_things_and_repeat_with_their_seed(tmp_path):
    model = onnx_models(tmp_path, nodes=False)[0]
    good = model.SerializeToString()
    changed = 0
    for seed in range(50):
        copies = [onnx.ModelProto.FromString(good) for _ in range(2)]
        for copy in copies:
            mutate_message(copy, random.Random(seed))
        first, second = (c.SerializeToString(deterministic=True) for c in copies)
        assert first == second
        changed += first != model.SerializeToString(deterministic=True)
        assert mutate_bytes(good, random.Random(seed)) == mutate_bytes(good, random.Random(seed))
        value = {"a": [1, {"b": "c"}]}
        mutate_json(value, random.Random(seed))
        assert value == {"a": [1, {"b": "c"}]}
    assert changed > 40
