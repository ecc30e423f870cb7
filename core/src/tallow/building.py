"""Building: a graph becomes a program for a list of devices, each with kernels and constants of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tallow.backend import device_names
from tallow.graph import Graph, Node, Value, walk
from tallow.ops import OPS
from tallow.placement import Site, Survey, place
from tallow.schedule.program import HostStep, Program, Scheduled, Step, programs_of
from tallow.stages import understand
from tallow.tuning import Maker


def build(given: list[Graph], makers: Sequence[Maker]) -> tuple[Program, list[Scheduled | None]]:
    """The program of the one graph in a list, which is taken from there, and what each device has of it: kernels
    and constants, or None where nothing runs on it."""
    main, alone = _prepared(given, makers)
    if alone is None:
        return lower_placed(main, makers)
    return alone.program, [alone, *[None] * (len(makers) - 1)]


def prepare_placed(given: list[Graph], makers: Sequence[Maker]) -> Graph:
    """The one graph in a list, which is taken from there, prepared for the first device; nodes `on` hold what
    others run."""
    return _prepared(given, makers)[0]


def _prepared(given: list[Graph], makers: Sequence[Maker]) -> tuple[Graph, Scheduled | None]:
    """The graph prepared, and its program if that was made to see that the first device runs all of it."""
    given.append(understand(given.pop()))
    if len(makers) > 1:
        if not any(_is_refused(node, makers[0]) for node in walk(given[0])):
            (main,) = makers[0].prepare(list(given))
            (alone,) = makers[0].lower([main])
            if not any(_is_host_work(s) for _, part in programs_of(alone.program) for s in part.steps):
                return main, alone
        given.append(place(given.pop(), _surveys(makers)))
    (main,) = makers[0].prepare(given)
    return main, None


def _is_refused(node: Node, maker: Maker) -> bool:
    """Whether a device is sure to have no kernel for a node; others may still turn out to have none."""
    if node.op == "constant" or node.regions or OPS[node.op].decompose is not None:
        return False
    return maker.bench.backend.supports(node, maker.bench.target) is not None


def _is_host_work(step: Step) -> bool:
    return isinstance(step, HostStep) and step.op != "fail"


def lower_placed(main: Graph, makers: Sequence[Maker]) -> tuple[Program, list[Scheduled | None]]:
    """The program of a prepared graph, and what each device has of it."""
    made: list[Scheduled | None] = [None] * len(makers)
    if len(makers) == 1:
        made = makers[0].lower([main])
        return made[0].program, made
    surveys = _surveys(makers)
    known = {node.output: node for node in walk(main) if node.op == "constant"}
    placed: dict[Graph, Program] = {}
    for device, maker in enumerate(makers):
        bodies = [node["body"] for node in walk(main) if node.op == "on" and node["device"] == device]
        if bodies:
            done = maker.lower(maker.prepare(list(bodies)), tell=_teller(surveys, device, known))
            placed |= {body: each.program for body, each in zip(bodies, done, strict=True)}
            made[device] = done[0]
    (made[0],) = makers[0].lower([main], placed=placed, tell=_teller(surveys, 0, known))
    return made[0].program, made


def _surveys(makers: Sequence[Maker]) -> list[Survey]:
    names = device_names([maker.bench.target for maker in makers])
    return [Survey(Site(n, m.bench.backend, m.bench.target)) for n, m in zip(names, makers, strict=True)]


def _teller(surveys: Sequence[Survey], own: int, known: Mapping[Value, Node]) -> Callable[[Node, str], str]:
    """Tells why a node runs on the host: the reason of each device."""

    def tell(node: Node, reason: str) -> str:
        reasons = {surveys[own].site.name: reason}
        for survey in surveys if node.outputs else ():
            found = None if survey is surveys[own] else survey.find(node, known).refusal
            reasons |= {} if found is None else {survey.site.name: found}
        return "; ".join(f"{name}: {why}" for name, why in reasons.items())

    return tell
