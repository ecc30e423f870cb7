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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(files: tuple[Path, ...], device: str, as_json: bool) -> None:
    """Tell what kind of file each of FILES is (by default: some of Tallow's own)."""
    config = json.loads((DATA / "config.json").read_text())
    start = time.perf_counter()
    run = tallow.compile(DATA / "magika.onnx", device)
    ready = time.perf_counter() - start
    own = Path(__file__)
    rows = [
        _tell(run, path, config)
        for path in files or (own, DATA / "config.json", DATA / "magika.onnx", DATA / "LICENSE")
    ]
    if as_json:
        click.echo(json.dumps({"ready_s": ready, "target": run.plan.target, "files": rows}, indent=2))
        return
    for row in rows:
        (label, score), *others = row["kinds"]
        then = ", ".join(f"{name} {part:.3f}" for name, part in others)
        click.echo(f"{row['file']:20} {label:12} {score:.3f}   (then {then})  {row['ms']:.2f} ms")
    _print_plan(run, ready)


def _tell(run: tallow.Executable, path: Path, config: dict) -> dict:
    """The three most likely kinds of a file."""
    content = path.read_bytes()
    start = time.perf_counter()
    best = classify(run, content, config)[:3]
    return {"file": path.name, "kinds": best, "ms": (time.perf_counter() - start) * 1e3}


def _print_plan(run: tallow.Executable, ready: float) -> None:
    plan = run.plan
    click.echo(f"\nMagika, {len(plan.steps)} steps on {plan.target}, ready in {ready:.2f} s:")
    for step in plan.steps[:6]:
        click.echo(f"  {step.place:5} {step.label}")
    if len(plan.steps) > 6:
        click.echo(f"  ... and {len(plan.steps) - 6} more (tallow show --stage program MODEL shows all)")
