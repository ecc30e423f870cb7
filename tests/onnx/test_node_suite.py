"""ONNX's own node tests, through the public API, on the CPU backend."""

from __future__ import annotations

from collections import Counter

from tallow.testing.onnx_nodes import run_suite

PASSING = 1875  # of 1884 in onnx 1.23; the exact number stands in the README


def test_node_suite():
    found = run_suite("node", "cpu", workers=2)
    counts = Counter(outcome for outcome, _ in found.values())
    worst = [f"{name}: {reason}" for name, (outcome, reason) in found.items() if outcome == "error"]
    assert counts["pass"] >= min(PASSING, round(len(found) * PASSING / 1884)), (counts, worst)
