"""What verbs share: options, opening of models, and printing of results."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

import tallow
from tallow.cli.arrays import Picture
from tallow.compiled import Tuning
from tallow.errors import InputError
from tallow.executable import Executable
from tallow.tuning import Progress

MODEL = click.argument("model", type=click.Path(exists=True, path_type=Path))
INPUTS = click.argument("inputs", nargs=-1, metavar="[NAME=VALUE]...")
DEVICE = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Backend, or backend:architecture; several with commas between, in order of preference.",
)
STRICT = click.option(
    "--strict", is_flag=True, help="The first device alone; refuse a model with nodes that would leave it."
)
DIMS = click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="Fix a symbolic size (batch=8) or bound it (batch=1..8); may be repeated.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
THREADS = click.option("--threads", type=click.IntRange(min=1), help="Use at most so many threads.")
TUNE = click.option(
    "--tune", is_flag=True, help="Measure what estimates would choose, and keep it for later compilations."
)
FORCE = click.option("--force", is_flag=True, help="Overwrite files that exist.")

Sizes = dict[str, int | tuple[int, int | None]]


def picture_options(verb: Callable) -> Callable:
    """The options that say how a picture becomes a model's input; the verb gets one `picture`."""
    choices = [
        click.option("--mean", default="0", help="Per channel with commas between, after --scale."),
        click.option("--std", default="1", help="Per channel with commas between, after --scale."),
        click.option("--scale", default=1 / 255, show_default="1/255", help="Factor on pixels 0..255."),
        click.option(
            "--layout", type=click.Choice(["auto", "nchw", "nhwc"]), default="auto", help="Order of axes."
        ),
        click.option("--channels", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True),
    ]

    def wrapped(*arguments, mean, std, scale, layout, channels, **others):
        picture = Picture(_numbers("--mean", mean), _numbers("--std", std), scale, layout, channels)
        return verb(*arguments, picture=picture, **others)

    wrapped.__name__, wrapped.__doc__ = verb.__name__, verb.__doc__
    wrapped.__click_params__ = getattr(verb, "__click_params__", [])
    for choice in reversed(choices):
        wrapped = choice(wrapped)
    return wrapped


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{option} {text}: expected numbers with commas between") from None


def sizes_of(dims: Sequence[str]) -> Sizes:
    """The sizes that --dim options give."""
    return dict(map(_size, dims))


def _size(text: str) -> tuple[str, int | tuple[int, int | None]]:
    name, _, size = text.partition("=")
    low, dots, high = size.partition("..")
    if not name or not low.isdecimal() or (high and not high.isdecimal()):
        raise click.UsageError(f"--dim {text}: expected NAME=SIZE or NAME=LEAST..GREATEST")
    return (name, (int(low), int(high) if high else None)) if dots else (name, int(low))


def working(what: str) -> AbstractContextManager:
    """A spinner beside what is being done, where a person looks on."""
    return Console(stderr=True).status(what) if sys.stderr.isatty() else nullcontext()


@contextmanager
def compiling(model: Path, tune: bool) -> Iterator[Progress | bool]:
    """Shows that a model is compiled, where a person looks on; gives what `compile` takes for `tune`."""
    with working(f"compiling {model.name}") as status:
        start = time.perf_counter()

        def progress(done: int, total: int, what: str) -> None:
            if status is not None:
                spent = time.perf_counter() - start
                status.update(f"tuning {model.name}: {done} of {total} choices, {spent:.0f} s, {what}")

        yield progress if tune else False


def opened(
    model: Path,
    device: str,
    dims: Sequence[str],
    threads: int | None,
    tune: bool = False,
    strict: bool = False,
) -> Executable:
    """A model compiled for a device or a list of them, or a `.tallow` file opened."""
    sizes = sizes_of(dims)
    if model.suffix == ".tallow":
        if tune or strict:
            what = "tune" if tune else "be strict"
            raise InputError(f"{model.name} is compiled already: {what} when compiling the model")
        return tallow.open(model, threads)
    with compiling(model, tune) as progress:
        exe = tallow.compile(model, device, dims=sizes, threads=threads, tune=progress, strict=strict)
    say_ignored(exe.compiled.tunings)
    return exe


def say_ignored(tuning: Tuning) -> None:
    """A word on stderr where measurements exist that are of no use on this processor."""
    if tuning.ignored:
        click.echo(
            f"measurements on {', '.join(tuning.ignored)} are not applied to this processor: "
            "--tune measures here",
            err=True,
        )


def writable(path: Path | None, force: bool) -> None:
    """Refuses a file that exists, unless it may be overwritten."""
    if path is not None and path.exists() and not force:
        raise tallow.TallowError(f"{path} exists already: choose another name or say --force")


def show_json(value) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def show_table(rows: Sequence[Mapping[str, object]], title: str | None = None) -> None:
    """Rows of one set of columns; numbers stand to the right."""
    table = Table(title=title)
    for column, value in rows[0].items():
        table.add_column(column, justify="right" if isinstance(value, (int, float)) else "left")
    for row in rows:
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()))
    width = None if sys.stdout.isatty() else 160  # a pipe has no width of its own
    Console(highlight=False, markup=False, width=width).print(table)
