"""The command `tallow demo`: a small pre-trained network says what kind of file a file is.

The model is Magika 1.0 standard_v3_3 (Google, Apache-2.0; Fratantonio et al., "Magika: AI-Powered
Content-Type Detection", 2024), carried beside this module with its licence.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import click
import numpy as np

import tallow
from tallow.hookspecs import hook

TALLOW_API = 1
DATA = Path(__file__).parent / "data"


def features(content: bytes, config: dict) -> np.ndarray:
    """The model's input [1, 2048]: the file's first and last bytes without the white space around them."""
    block, size, padding = config["block_size"], config["beg_size"], config["padding_token"]
    first = list(content[:block].lstrip()[:size])
    last = list(content[-block:].rstrip()[-config["end_size"] :])
    first += [padding] * (size - len(first))
    last = [padding] * (config["end_size"] - len(last)) + last
    return np.array([first + last], np.int32)


def classify(run: tallow.Executable, content: bytes, config: dict) -> list[tuple[str, float]]:
    """Kinds with their scores, the most likely first."""
    (scores,) = run(features(content, config))
    order = np.argsort(-scores)
    return [(config["target_labels_space"][i], float(scores[i])) for i in order]


@click.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--device", default="cpu", show_default=True)
def demo(files: tuple[Path, ...], device: str) -> None:
    """Tell what kind of file each of FILES is (by default: some of Tallow's own)."""
    config = json.loads((DATA / "config.json").read_text())
    start = time.perf_counter()
    run = tallow.compile(DATA / "magika.onnx", device)
    ready = time.perf_counter() - start
    own = Path(__file__)
    for path in files or (own, DATA / "config.json", DATA / "magika.onnx", DATA / "LICENSE"):
        content = path.read_bytes()
        start = time.perf_counter()
        best = classify(run, content, config)[:3]
        took = time.perf_counter() - start
        others = ", ".join(f"{label} {score:.3f}" for label, score in best[1:])
        click.echo(f"{path.name:20} {best[0][0]:12} {best[0][1]:.3f}   (then {others})  {took * 1e3:.2f} ms")
    plan = run.plan
    click.echo(f"\nMagika, {len(plan.steps)} steps on {plan.target}, ready in {ready:.2f} s:")
    for step in plan.steps[:6]:
        click.echo(f"  {step.place:5} {step.label}")
    if len(plan.steps) > 6:
        click.echo(f"  ... and {len(plan.steps) - 6} more (tallow show --stage program MODEL shows all)")


@hook
def register_commands(register) -> None:
    register(demo)
