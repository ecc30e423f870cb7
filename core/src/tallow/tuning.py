"""Tuning: what passes and lowerings would choose by estimates is measured, each candidate on its node alone.

A node is compiled once for each candidate, with random operands of its sizes, and the candidates take turns
of one run. Weights are kept several times, so that they come from memory as they do in a whole model; steps
that all candidates share are left out. The estimate's choice stays unless another is clearly faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from tallow import records
from tallow.backend import Code, Target
from tallow.choices import Answer, Candidate, Choices, Question
from tallow.compiled import aligned
from tallow.errors import CompileError
from tallow.graph import Graph, Node, TensorType
from tallow.kernel.grammar import Kernel
from tallow.runtime.binding import bind_inputs
from tallow.runtime.machine import Machine
from tallow.runtime.memory import Constants, memory_of
from tallow.schedule.program import KernelStep, Scheduled
from tallow.schedule.schedule import schedule_all
from tallow.stages import lower, lowerer_of, prepare, specialise
from tallow.workbench import Workbench

Stage = TypeVar("Stage")
Progress = Callable[[int, int, str], None]  # (questions answered, questions known, the next one)

CANDIDATES = 8  # measured of one question, the best by estimate
HOPELESS = 3.0  # times the least estimate, or after a round the least time: not measured (further)
MARGIN = 0.03  # part of the time that another choice must save
ROUNDS, SECONDS = 12, 0.2  # of a question, at most; and at least LEAST_ROUNDS
LEAST_ROUNDS = 4
COLD, COPIES = 48 << 20, 8  # bytes of weights that no cache holds; copies of the weights, at most


def unseen(done: int, total: int, what: str) -> None:
    """Progress that nobody looks at."""


def build(bench: Workbench, graph: Graph, choices: Choices) -> Scheduled:
    """The program of a graph, with these choices."""
    target = replace(bench.target, choices=choices)
    return lower(prepare(graph, bench.backend, target), bench.backend, target)


class Maker:
    """Makes the programs of one device, with what is on record and estimates for everything else."""

    def __init__(self, bench: Workbench):
        self.bench = bench
        self.choices = Choices(bench.record())

    @property
    def target(self) -> Target:
        return replace(self.bench.target, choices=self.choices)

    def prepare(self, graphs: list[Graph]) -> list[Graph]:
        """Understood graphs, which are taken from the list one by one, ready to schedule."""
        return [specialise(graphs.pop(0), self.bench.backend, self.target) for _ in range(len(graphs))]

    def lower(self, graphs: Sequence[Graph], **more) -> list[Scheduled]:
        """Programs on shared kernels; `more` goes to the `Lowerer`."""
        return schedule_all(graphs, replace(lowerer_of(self.bench.backend, self.target), **more))


class Tuner(Maker):
    """Makes programs after all open questions were measured. Lowerings ask only after all questions of the
    passes are answered. CompileError where no device here runs the code."""

    def __init__(self, bench: Workbench, progress: Progress = unseen):
        if not bench.machine:
            raise CompileError(f"tuning measures on the device: {bench.why}. Compile without tuning")
        super().__init__(bench)
        self.progress = progress
        self.record = bench.record()
        self.choices = Choices(self.record)
        self.done = 0

    def prepare(self, graphs: list[Graph]) -> list[Graph]:
        return self.settle(lambda: super(Tuner, self).prepare(list(graphs)))

    def lower(self, graphs: Sequence[Graph], **more) -> list[Scheduled]:
        return self.settle(lambda: super(Tuner, self).lower(graphs, **more))

    def settle(self, stage: Callable[[], Stage]) -> Stage:
        """The result of a stage that leaves no question open."""
        before = self.choices.asked
        while True:
            self.choices = Choices(self.record)
            self.choices.asked.update(before)
            result = stage()
            questions = self.choices.open
            if not questions:
                return result
            total = self.done + len(questions)
            for question in questions:
                self.progress(self.done, total, question.text)
                self.record[question.text] = answer = measure(question, self.bench, self.record)
                records.add(self.bench.machine, self.bench.scope, {question.text: answer})
                self.done += 1


def measure(question: Question, bench: Workbench, record: records.Record) -> Answer:
    """The answer that is fastest on this machine; the rest as in the record, else by estimate."""
    chosen = _worth_measuring(question)
    graph = alone(question)
    programs = [build(bench, graph, Choices({**record, question.text: c.value})) for c in chosen]
    trials = _trials(chosen, programs, bench)
    if not any(trial.own for trial in trials):
        return question.best.value
    contest(trials)
    usual, best = trials[0], min(trials, key=lambda t: t.seconds)
    if best.seconds < usual.seconds * (1 - MARGIN):  # among many one is lucky: once more, the two alone
        contest([usual, best])
    return best.value if best.seconds < usual.seconds * (1 - MARGIN) else usual.value


def contest(trials: Sequence[_Trial]) -> None:
    """The least time of each, in turns; those that are far behind drop out."""
    start = time.perf_counter()
    for trial in trials:
        trial.seconds = trial.run()
    for number in range(1, ROUNDS):
        least = min(trial.seconds for trial in trials)
        for trial in trials:
            if trial.seconds < HOPELESS * least:
                trial.seconds = min(trial.seconds, trial.run())
        if number >= LEAST_ROUNDS and time.perf_counter() - start > SECONDS:
            break


def _worth_measuring(question: Question) -> list[Candidate]:
    """The best candidates by estimate, the best first."""
    least = question.best.estimate
    ranked = sorted(question.candidates, key=lambda c: c.estimate)
    return [c for c in ranked if c.estimate <= least * HOPELESS][:CANDIDATES]


def alone(question: Question) -> Graph:
    """The node of a question as a graph, with noise for its weights."""
    node = question.node
    weights = {node.inputs[i] for i in question.constants if i < len(node.inputs)}
    operands = dict.fromkeys(node.inputs)
    inputs = tuple(v for v in operands if v not in weights)
    constants = [Node("constant", (), (v,), {"value": noise(v.type)}) for v in operands if v in weights]
    return Graph("alone", inputs, node.outputs, (*constants, node))


def noise(type_: TensorType) -> np.ndarray:
    """Small random numbers of a type."""
    random = np.random.default_rng(0)
    if not type_.dtype.is_float:
        return random.integers(0, 2, type_.shape).astype(type_.dtype.numpy)
    return (random.standard_normal(type_.shape, np.float32) / 16).astype(type_.dtype.numpy)


class _Trial:
    """One candidate's program, opened; `own` are the numbers of steps that not all candidates have."""

    def __init__(
        self, value: Answer, scheduled: Scheduled, code: Code, shared: set[Kernel], bench: Workbench
    ):
        self.value, self.seconds = value, float("inf")
        program = scheduled.program
        self.own = {
            number
            for number, step in enumerate(program.steps)
            if isinstance(step, KernelStep) and _nameless(scheduled.kernels[step.entry]) not in shared
        }
        device = bench.backend.open(bench.target.backend)
        module, memory = device.load(code), memory_of(device)
        constants = {key: np.asarray(array) for key, array in scheduled.constants.items()}
        copies = min(COPIES, -(-COLD // max(1, sum(a.nbytes for a in constants.values()))))
        copied = [{key: aligned(a.copy()) for key, a in constants.items()} for _ in range(copies)]
        self.machines = [
            Machine(program, module, memory, Constants(memory, c), bench.threads) for c in copied
        ]
        self.bound = bind_inputs(program, [noise(program.slots[s].type) for s in program.inputs], device)
        self.out = [dict(enumerate(machine.run(self.bound))) for machine in self.machines][-1]

    def run(self) -> float:
        """Seconds of a run, the least of one with each copy of the weights."""
        return min(map(self._seconds, self.machines))

    def _seconds(self, machine: Machine) -> float:
        spent: dict[int, float] = {}
        machine.run(self.bound, self.out, lambda step, seconds, _: spent.update({step: seconds}))
        return sum(spent.get(number, 0.0) for number in self.own)


def _trials(candidates: Sequence[Candidate], programs: Sequence[Scheduled], bench: Workbench) -> list[_Trial]:
    """The programs compiled together and opened."""
    shared = set.intersection(*({_nameless(k) for k in p.kernels.values()} for p in programs))
    kernels = [replace(k, name=f"{n}.{e}") for n, p in enumerate(programs) for e, k in p.kernels.items()]
    code = bench.backend.compile(kernels, bench.target)
    trials = []
    for number, (candidate, program) in enumerate(zip(candidates, programs, strict=True)):
        entries = {e: code.entries[f"{number}.{e}"] for e in program.kernels}
        trials.append(_Trial(candidate.value, program, code._replace(entries=entries), shared, bench))
    return trials


def _nameless(kernel: Kernel) -> Kernel:
    return replace(kernel, name="")
