"""`python -m benchmarks.cuda`: Tallow against torch.compile on an NVIDIA GPU, model by model.

The models are torch's own with random weights, exported to ONNX for Tallow; both run in the same dtype on
inputs that lie on the GPU, in turns, and their results are compared. Needs torch, transformers and onnx. With
`--compile-only sm_90` nothing runs: the models are compiled for that target, which needs no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tallow
from tallow.compiler import compile_graph
from tallow.errors import TallowError

TOLERANCE = {"f32": 2e-3, "f16": 3e-2}  # relative to the largest value; sums differ in order and width
DTYPES = {"f32": "float32", "f16": "float16"}


@dataclass(frozen=True, slots=True)
class Case:
    """A model of the table: its module, its sample of a batch, and which of its results is compared."""

    title: str
    module: Callable
    sample: Callable
    result: str


def _pixels(torch, batch: int):
    return torch.randn(batch, 3, 224, 224)


def _mel(torch, batch: int):
    return torch.randn(batch, 80, 3000)


def _tokens(length: int):
    return lambda torch, batch: torch.randint(0, 30000, (batch, length))


def _whisper_encoder(transformers):
    sizes = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _WHISPER_BASE.items()}
    return transformers.WhisperModel(transformers.WhisperConfig(d_model=512, **sizes)).encoder


_WHISPER_BASE = {"layers": 6, "attention_heads": 8, "ffn_dim": 2048}
CASES = {
    "resnet50": Case(
        "ResNet-50", lambda t: t.ResNetForImageClassification(t.ResNetConfig()), _pixels, "logits"
    ),
    "bert_base": Case(
        "BERT-base, 128", lambda t: t.BertModel(t.BertConfig()), _tokens(128), "last_hidden_state"
    ),
    "gpt2": Case(
        "GPT-2, 128", lambda t: t.GPT2LMHeadModel(t.GPT2Config(use_cache=False)), _tokens(128), "logits"
    ),
    "whisper_encoder": Case(
        "Whisper encoder (base)",
        _whisper_encoder,
        _mel,
        "last_hidden_state",
    ),
}


def main(words: list[str] | None = None) -> int:
    """Exit code: 0 all agree, 1 something failed or differs."""
    parser = argparse.ArgumentParser("python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile-only", metavar="TARGET")
    options = parser.parse_args(words)
    if unknown := set(options.models) - set(CASES):
        parser.error(f"unknown model {sorted(unknown)[0]!r}: expected one of {', '.join(CASES)}")
    import torch
    import transformers

    if not options.compile_only and not torch.cuda.is_available():
        print(
            "torch sees no GPU: run this on a machine with one, or give --compile-only sm_90", file=sys.stderr
        )
        return 1
    print(
        "| model | dtype | batch | Tallow | torch.compile | ratio | difference |\n|---|---|---|---|---|---|---|"
    )
    failed = False
    for name in options.models or CASES:
        for dtype in options.dtype:
            for batch in options.batch:
                try:
                    cells, fine = measure(torch, transformers, CASES[name], dtype, batch, options)
                except TallowError as error:
                    cells, fine = [str(error).splitlines()[0]], False
                failed |= not fine
                print("|", " | ".join([CASES[name].title, dtype, str(batch), *cells]), "|", flush=True)
    return int(failed)


def measure(torch, transformers, case: Case, dtype: str, batch: int, options) -> tuple[list[str], bool]:
    """The cells of a row, and whether the results agree."""
    torch.manual_seed(0)
    module = Tensor(torch, case.module(transformers), case.result).eval().to(getattr(torch, DTYPES[dtype]))
    sample = case.sample(torch, batch)
    sample = sample.to(getattr(torch, DTYPES[dtype])) if sample.is_floating_point() else sample
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module, (sample,), path, input_names=["x"], output_names=["y"], dynamo=True, verbose=False
        )
        if options.compile_only:
            start = time.perf_counter()
            compiled = compile_graph(tallow.load(path).graph, f"cuda:{options.compile_only}")
            seconds = time.perf_counter() - start
            return [f"{len(compiled.program.steps)} steps, compiled in {seconds:.1f} s", "", "", ""], True
        program = tallow.compile(path, options.device)
        module, sample = module.to(options.device), sample.to(options.device)
        theirs = torch.compile(module, mode="max-autotune")
        got = torch.from_dlpack(program.run({"x": sample}, keep="device")["y"]).float()
        want = theirs(sample).float()
        difference = float((got - want).abs().max() / want.abs().max())
        ours = lambda: program.run({"x": sample}, keep="device")  # noqa: E731
        mine, other = take_turns(torch, ours, lambda: theirs(sample), options.rounds)
    cells = [f"{mine * 1e3:.3f} ms", f"{other * 1e3:.3f} ms", f"{other / mine:.2f}", f"{difference:.1e}"]
    return cells, difference < TOLERANCE[dtype]


def Tensor(torch, module, result: str):
    """The module with one tensor for its result."""

    class OneResult(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x, return_dict=True)[result]

    return OneResult()


def take_turns(torch, ours: Callable, theirs: Callable, rounds: int) -> tuple[float, float]:
    """Median seconds of one run each, measured in turns until the GPU is done."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 5):
        for run, found in zip((ours, theirs), seconds, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if turn >= 5:  # the first runs compile, capture graphs and fill pools
                found.append(time.perf_counter() - start)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


if __name__ == "__main__":
    sys.exit(main())
