"""The table beside torch on a GPU, with doubles of torch: what is measured in which order, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from benchmarks import cuda
from tallow.errors import CompileError


@pytest.fixture
def torch(monkeypatch):
    """A double that sees a GPU of compute capability 9.0."""
    settings = SimpleNamespace(allow_tf32=True)
    found = SimpleNamespace(
        __version__="2",
        backends=SimpleNamespace(cuda=SimpleNamespace(matmul=SimpleNamespace()), cudnn=settings),
        cuda=SimpleNamespace(
            is_available=lambda: True,
            get_device_name=lambda device: "A GPU",
            get_device_capability=lambda device: (9, 0),
            synchronize=lambda: None,
        ),
    )
    monkeypatch.setitem(sys.modules, "torch", found)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="5"))
    return found


def test_all_take_turns_and_first_runs_do_not_count(torch, monkeypatch):
    order, clock = [], iter(range(1000))
    monkeypatch.setattr(cuda.time, "perf_counter", lambda: next(clock))
    runs = [lambda name=name: order.append(name) for name in "abc"]
    assert cuda.take_turns(torch, runs, 3) == [1, 1, 1]
    assert order == list("abc") * (cuda.WARM + 3)


def test_a_row_for_each_model_dtype_and_batch(torch, monkeypatch, capsys):
    def measure(torch, transformers, case, dtype, batch, options):
        assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is False
        if batch == 32:
            raise RuntimeError("CUDA out of memory\nmore of it")
        if dtype == "f16":
            raise CompileError("no kernel")
        return [case.title] * 6, True

    monkeypatch.setattr(cuda, "measure", measure)
    assert cuda.main(["gpt2", "resnet50"]) == 1
    heading, _, *table = capsys.readouterr().out.splitlines()
    assert heading == "A GPU; Tallow 0.1.0, torch 2, transformers 5"
    assert {line.count("|") for line in table} == {10}
    assert [line.split(" | ")[:4] for line in table[2:6]] == [
        ["| GPT-2, 128", "f32", "1", "GPT-2, 128"],
        ["| GPT-2, 128", "f32", "32", "CUDA out of memory"],
        ["| GPT-2, 128", "f16", "1", "no kernel"],
        ["| GPT-2, 128", "f16", "32", "CUDA out of memory"],
    ]
    assert len(table) == 2 + 8
    assert cuda.main(["gpt2", "--dtype", "f32", "--batch", "1"]) == 0


def test_tf32_is_for_all_or_none(torch):
    options = SimpleNamespace(compile_only=None, device="cuda:0", tf32=True)
    assert cuda.target_of(torch, options) == "cuda:sm_90+tf32"
    options = SimpleNamespace(compile_only="sm_80", device="cuda:0", tf32=False)
    assert cuda.target_of(torch, options) == "cuda:sm_80"


def test_what_is_not_there_is_told(torch, capsys):
    with pytest.raises(SystemExit):
        cuda.main(["bert"])
    assert "unknown model 'bert': expected one of resnet50, bert_base" in capsys.readouterr().err
    torch.cuda.is_available = lambda: False
    assert cuda.main([]) == 1
    assert "give --compile-only sm_90" in capsys.readouterr().err
