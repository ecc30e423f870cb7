"""The micro benchmarks' own parts, without timing anything: the table of cases, the arithmetic, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tallow
from benchmarks import micro
from benchmarks.__main__ import main
from benchmarks.ceiling import Ceiling
from benchmarks.micro_cases import CASES
from tallow.errors import GraphError
from tallow.testing import speed
from tallow.testing.speed import (
    DeviceRates,
    Measured,
    NotThere,
    WrongResult,
    bound_of,
    family_means,
    make_inputs,
    measure_case,
)
from tallow.testing.speed_cases import Case, bytes_moved

BY_NAME = {case.name: case for case in CASES}


class FixedCeiling:
    """A core of one operation and one byte a second."""

    def __init__(self):
        self.best = {"sgemm": 1.0, "copy": 1.0}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, kind: str) -> float:
        return self.best[kind]


def test_names_are_unique_and_every_family_is_there():
    assert len(BY_NAME) == len(CASES)
    assert {name.split()[0] for name in BY_NAME} == {
        "gemm", "gemv", "conv", "depthwise", "softmax", "log_softmax", "layer_norm", "rms_norm", "attention",
        "elementwise",
    }  # fmt: skip


@pytest.mark.parametrize(
    "name, operations, moved",
    [
        ("gemm packed 384x384x384", 2 * 384**3, 3 * 384 * 384),
        ("gemm run-time 12 of 128x64x128", 2 * 12 * 128 * 64 * 128, 12 * (128 * 64 * 2 + 128 * 128)),
        ("gemv packed 1x64x64", 2 * 64 * 64, 64 + 64 * 64 + 64),
        (
            "conv 7x7 3 to 64 at 224 stride 2",
            2 * 64 * 3 * 49 * 112 * 112,
            3 * 224 * 224 + 64 * 3 * 49 + 64 + 64 * 112 * 112,
        ),
        (
            "conv 3x3 128 to 128 at 28 in 32 groups",
            2 * 128 * 4 * 9 * 28 * 28,
            2 * 128 * 28 * 28 + 128 * 4 * 9 + 128,
        ),
        ("conv 3x3 256 to 256 at 28 dilation 2", 2 * 256 * 256 * 9 * 28 * 28, None),
        ("depthwise 3x3 144 to 144 at 56 stride 2", 2 * 144 * 9 * 28 * 28, None),
        ("attention 12 heads, 128 on 128 of 64", 2 * 2 * 12 * 128 * 128 * 64, 4 * 12 * 128 * 64),
        ("attention 12 heads, 512 on 512 of 64, causal", 2 * 12 * 512 * 513 * 64, None),
        ("softmax 12x128x128", 0, 2 * 12 * 128 * 128),
        ("elementwise add 4096x4096", 0, 3 * 4096 * 4096),
    ],
)
def test_operations_and_bytes_are_counted(name, operations, moved):
    case = BY_NAME[name]
    assert case.operations == operations
    if moved is not None:
        assert bytes_moved(case.graph()) == 4 * moved


def test_weights_are_constants_only_where_they_say_so():
    packed, run_time = (BY_NAME[f"gemm {kind} 384x384x384"].graph() for kind in ("packed", "run-time"))
    assert len(packed.inputs) == 1 and len(run_time.inputs) == 2


def test_the_ceiling_that_allows_less_bounds():
    assert bound_of(operations=100, moved=10, flops=5.0, bandwidth=1.0) == "sgemm"
    assert bound_of(operations=100, moved=10, flops=20.0, bandwidth=1.0) == "copy"
    assert bound_of(operations=0, moved=1, flops=1.0, bandwidth=1.0) == "copy"


def test_a_case_is_checked_and_its_share_is_what_the_ceiling_allows_over_what_it_took(monkeypatch):
    case = Case(
        "gemm tiny", lambda b: b.matmul(b.input("x", "f32", (4, 8)), b.input("w", "f32", (8, 2))), 128
    )
    monkeypatch.setattr(speed, "time_of", lambda work, runs: 64.0)
    # 4 * (32 + 16 + 8) bytes at one byte a second take longer than 128 operations at one a second
    assert measure_case(case, FixedCeiling(), threads=1, rounds=3, seconds=0.0) == Measured(
        "gemm tiny", 64.0, 128 / 64e9, 224 / 64e9, "copy", 3.5, 3.5
    )
    assert measure_case(case, FixedCeiling(), threads=2, rounds=3, seconds=0.0, cores=2).share == 1.75
    monkeypatch.setattr(tallow, "evaluate", lambda graph, inputs: {"y": np.ones((4, 2), np.float32)})
    with pytest.raises(WrongResult, match="differs from numpy by .* of the largest value"):
        measure_case(case, FixedCeiling(), threads=1, rounds=1, seconds=0.0)


def test_inputs_are_seeded_noise():
    first, again = (make_inputs(BY_NAME["gemm run-time 384x384x384"].graph()) for _ in range(2))
    assert list(first) == ["x", "w"]
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert 0.9 < array.std() < 1.1


def test_means_are_geometric_and_by_family():
    rows = [
        Measured(n, 1.0, 1.0, 1.0, "copy", s, s / 2) for n, s in (("a 1", 0.5), ("a 2", 2.0), ("b 1", 0.3))
    ]
    assert family_means(rows) == [
        "| **a, geometric mean** | | | | **100%** (50%) | |",
        "| **b, geometric mean** | | | | **30%** (15%) | |",
    ]


def test_the_command_measures_what_matches_and_goes_on_after_a_failure(tmp_path, capsys, monkeypatch):
    def broken(builder):
        raise GraphError("no such thing")

    good = Case("gemm good", lambda b: b.relu(b.input("x", "f32", (3,))))
    monkeypatch.setattr(micro, "CASES", (Case("gemm broken", broken), good, Case("conv other", broken)))
    monkeypatch.setattr(micro, "Ceiling", FixedCeiling)
    target = tmp_path / "micro.json"
    words = ["micro", "gemm", "--rounds", "1", "--seconds", "0", "--json", str(target)]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "| gemm broken | no such thing |" in printed.out and "| gemm good |" in printed.out
    assert printed.err == "gemm broken: no such thing\n"
    stored = json.loads(target.read_text())
    assert [case["name"] for case in stored["cases"]] == ["gemm good"]
    assert main(["micro", "good", "--list"]) == 0
    assert capsys.readouterr().out == "gemm good\n"
    with pytest.raises(SystemExit) as stopped:
        main(["micro", "nothing"])
    assert stopped.value.code == 2
    assert "the families are gemm, conv" in capsys.readouterr().err


def test_the_ceiling_answers_for_both_kinds():
    with Ceiling() as ceiling:
        rates = {kind: ceiling.ask(kind) for kind in ("sgemm", "copy")}
        assert ceiling.best == rates
    assert all(rate > 1e7 for rate in rates.values())


def test_a_devices_ceilings_are_its_own(monkeypatch):
    monkeypatch.setattr(speed, "SQUARES", (32, 64))
    rates = DeviceRates("cpu", 1)
    assert rates.ask("sgemm") > 1e7 and rates.ask("copy") > 1e7 and set(rates.best) == {"sgemm", "copy"}
    rates = DeviceRates("example", 1)
    assert rates.ask("sgemm") == np.inf and rates.ask("copy") > 1e7
    assert bound_of(100, 1, np.inf, 1.0) == "copy"
    with pytest.raises(NotThere, match="no kernel for matmul"):
        measure_case(BY_NAME["gemm packed 384x384x384"], rates, 1, 1, 0.0, "example")


def test_the_kits_command_measures_what_the_device_does(monkeypatch, capsys):
    monkeypatch.setattr(speed, "SQUARES", (32,))
    assert (
        speed.main(["--device", "example", "relu", "1024x1024x1024", "--rounds", "1", "--seconds", "0"]) == 0
    )
    printed = capsys.readouterr().out
    assert "| gemm packed 1024x1024x1024 | no kernel for matmul |" in printed
    assert "| elementwise relu 1024x1024 |" in printed and "example: no product, " in printed
    assert speed.main(["--device", "nothing"]) == 1
    assert "nothing: the ceiling cannot be measured: there is no backend" in capsys.readouterr().err
    assert speed.main(["--device", "example", "softmax", "--list"]) == 0
    assert capsys.readouterr().out == "softmax 12x512x512\n"
    wrong = Case("relu wrong", lambda b: b.relu(b.input("x", "f32", (3,))))
    monkeypatch.setattr(speed, "CASES", (wrong,))
    monkeypatch.setattr(speed, "difference", lambda ours, theirs: np.inf)
    assert speed.main(["--device", "example", "--rounds", "1", "--seconds", "0"]) == 1
    assert "relu wrong: differs from numpy by inf" in capsys.readouterr().err
