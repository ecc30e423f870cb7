"""The verbs that work on whole models: run, build and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.catalogue import MODELS, Model, Unbuildable, default_folder, find
from benchmarks.catalogue import build as build_model
from benchmarks.engines import ENGINES
from benchmarks.measure import Failed, Settings, describe_machine, measure
from benchmarks.report import markdown, plot


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Measure models; the JSON is renewed after each, so that a run that is stopped is not lost."""
    _add_models(parser)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--threads", type=_positive, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=_positive, default=15, help="turns of each engine")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn")
    parser.add_argument("--starts", type=_positive, default=3, help="repetitions of each way of loading")
    _add_output(parser)
    options = parser.parse_args(words)
    models = _chosen(parser, options.models)
    found = results.Run(describe_machine(), {})
    for name in options.engines:
        version = ENGINES[name].version()
        if version is None:
            found.left_out[ENGINES[name].title] = f"not installed: pip install {ENGINES[name].package}"
        else:
            found.versions[name] = version
    settings = Settings(options.threads, options.rounds, options.seconds, options.starts)
    for model in models:
        _measure_into(found, model, options.models_folder, settings)
        if options.output:
            _write(found, options.output)
    print(markdown(found))
    return 0 if found.models else 1


def _measure_into(found: results.Run, model: Model, folder: Path | None, settings: Settings) -> None:
    def tell(what: str) -> None:
        print(f"{model.title}: {what}", file=sys.stderr, flush=True)

    try:
        path = build_model(model, folder or default_folder())
        found.models.append(measure(model, path, list(found.versions), settings, tell))
    except (Unbuildable, Failed) as error:
        found.left_out[model.title] = str(error)
        tell(f"left out: {error}")


def build(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Build models and print their paths."""
    _add_models(parser)
    parser.add_argument("--force", action="store_true", help="build again what is there")
    options = parser.parse_args(words)
    failed = False
    for model in _chosen(parser, options.models):
        try:
            print(build_model(model, options.models_folder or default_folder(), options.force), flush=True)
        except Unbuildable as error:
            failed = True
            print(f"left out: {error}", file=sys.stderr)
    return int(failed)


def report(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Print the tables of runs that were written before."""
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    _add_output(parser)
    options = parser.parse_args(words)
    try:
        merged = results.merge([results.load(path) for path in options.files])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.output:
        _write(merged, options.output)
    print(markdown(merged))
    return 0


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"FILE.onnx[,NAME=SIZE]... or of {', '.join(MODELS)}"
    )
    parser.add_argument(
        "--models", type=Path, dest="models_folder", metavar="DIR", help="where built models are kept"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write benchmarks.md, benchmarks.json and benchmarks.png here",
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return number


def _chosen(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[Model]:
    try:
        return [find(word) for word in words or MODELS]
    except Unbuildable as error:
        parser.error(str(error))


def _write(found: results.Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results.save(found, folder / "benchmarks.json")
    (folder / "benchmarks.md").write_text(markdown(found))
    try:
        plot(found, folder / "benchmarks.png")
    except ImportError:
        print("no picture: pip install matplotlib", file=sys.stderr)
