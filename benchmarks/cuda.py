"""`python -m benchmarks.cuda`: Tallow against torch.compile and eager torch on an NVIDIA GPU, model by model.

The models are torch's own with random weights, exported to ONNX for Tallow; all run in the same dtype on
inputs that lie on the GPU, in turns, and their results are compared. f32 is f32 everywhere, or with `--tf32` that
everywhere. Needs torch, transformers, onnx and onnxscript. With `--compile-only sm_90` nothing runs: the models are
compiled for that target, which needs no GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tallow
from tallow.compile import open_compiled
from tallow.compiler import compile_graph
from tallow.errors import TallowError

TOLERANCE = {"f32": 2e-3, "f16": 3e-2}  # relative to the largest value; sums differ in order and width
WARM = 5  # first runs, which compile, capture graphs and fill pools
TIMED = ("Tallow", "torch.compile", "eager", "torch.compile / Tallow", "eager / Tallow", "difference")
COMPILED = ("steps", "code", "spilled", "compiled in")
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
    parser.add_argument("--tf32", action="store_true", help="let all round operands of f32 to 11 bits")
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
    allow_tf32(torch, options.tf32)
    print(heading(torch, transformers, options))
    columns = COMPILED if options.compile_only else TIMED
    print(f"| model | dtype | batch | {' | '.join(columns)} |\n|{'---|' * (3 + len(columns))}")
    failed = False
    for name in options.models or CASES:
        for dtype in options.dtype:
            for batch in options.batch:
                try:
                    cells, fine = measure(torch, transformers, CASES[name], dtype, batch, options)
                except (TallowError, RuntimeError) as error:  # torch's own errors are RuntimeErrors
                    cells, fine = [str(error).partition("\n")[0], *[""] * (len(columns) - 1)], False
                failed |= not fine
                print("|", " | ".join([CASES[name].title, dtype, str(batch), *cells]), "|", flush=True)
    return int(failed)


def allow_tf32(torch, allowed: bool) -> None:
    """Make torch round operands of f32, or not: by itself it does so in convolutions alone."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def heading(torch, transformers, options) -> str:
    """What was measured on what."""
    versions = [f"Tallow {tallow.__version__}", f"torch {torch.__version__}"]
    versions.append(f"transformers {transformers.__version__}")
    where = options.compile_only or torch.cuda.get_device_name(options.device)
    return f"{where}; {', '.join(versions)}{'; tf32' if options.tf32 else ''}\n"


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
        start = time.perf_counter()
        compiled = compile_graph(tallow.load(path).graph, target_of(torch, options))
        seconds = time.perf_counter() - start
    if options.compile_only:
        return compiled_cells(compiled, seconds), True
    return race(torch, compiled, module, sample, dtype, options)


def target_of(torch, options) -> str:
    """What Tallow compiles for."""
    name = options.compile_only
    if not name:
        name = "sm_{}{}".format(*torch.cuda.get_device_capability(options.device))
    return f"cuda:{name}{'+tf32' if options.tf32 else ''}"


def compiled_cells(compiled, seconds: float) -> list[str]:
    """Steps of a program, those that are calls of libraries, and what spilled."""
    notes = {key: json.loads(compiled.code.notes[key]) for key in ("calls", "usage")}
    spilled = sum(spilled for _, _, spilled in notes["usage"].values())
    kernels = f"{len(notes['usage'])} kernels, {len(notes['calls'])} calls"
    return [str(len(compiled.program.steps)), kernels, f"{spilled} bytes", f"{seconds:.1f} s"]


def race(torch, compiled, module, sample, dtype: str, options) -> tuple[list[str], bool]:
    """All on one input on the GPU, compared and then timed in turns."""
    torch._dynamo.reset()  # it gives up on functions that it has compiled for too many models
    torch.cuda.empty_cache()
    program = open_compiled(compiled, device=options.device)
    module, sample = module.to(options.device), sample.to(options.device)
    theirs = torch.compile(module, mode="max-autotune")
    with torch.inference_mode():
        runs = (
            lambda: program.run({"x": sample}, keep="device"),
            lambda: theirs(sample),
            lambda: module(sample),
        )
        got = torch.from_dlpack(runs[0]()["y"]).float()
        want = runs[1]().float()
        difference = float((got - want).abs().max() / want.abs().max())
        ours, compiled_, eager = take_turns(torch, runs, options.rounds)
    times = [f"{seconds * 1e3:.3f} ms" for seconds in (ours, compiled_, eager)]
    ratios = [f"{other / ours:.2f}" for other in (compiled_, eager)]
    return [*times, *ratios, f"{difference:.1e}"], difference < TOLERANCE[dtype]


def Tensor(torch, module, result: str):
    """The module with one tensor for its result."""

    class OneResult(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x, return_dict=True)[result]

    return OneResult()


def take_turns(torch, runs: Sequence[Callable], rounds: int) -> list[float]:
    """Median seconds of each, measured in turns until the GPU is done."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds + WARM):
        for run, found in zip(runs, seconds, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            if turn >= WARM:
                found.append(time.perf_counter() - start)
    return [statistics.median(found) for found in seconds]


if __name__ == "__main__":
    sys.exit(main())
