"""schedule: a Graph that has been through the passes becomes a Program and its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tallow.dim import Dim
from tallow.dtype import i64
from tallow.errors import CompileError
from tallow.graph import Graph, Node, TensorType, Value, captured, type_symbols
from tallow.kernel.grammar import Kernel
from tallow.lower.group import Declined, Group, KernelCall, Lowering, Temporary
from tallow.lower.pointwise import lower_pointwise
from tallow.lower.share import share
from tallow.ops import OPS
from tallow.passes.decompose import decompose
from tallow.schedule.checks import checks_of
from tallow.schedule.flow import ROOM, WHERE, Opening, is_endless, refusal, rows_of, stretch_of
from tallow.schedule.fuse import Rules, fuse
from tallow.schedule.program import (
    ControlStep,
    HostStep,
    KernelStep,
    Moved,
    PlacedStep,
    Program,
    Scheduled,
    Slot,
    Step,
    root_among,
)
from tallow.types import Type

CONTROL = ("if", "loop")
ZERO = np.zeros((), np.int64)
# Which prologue a root other than a reduction may be offered; its lowering can still decline.
OFFERED = {
    "matmul": ("transpose",),
    "attention": ("transpose",),
    "softmax": ("add", "mul", "sub", "div", "cast", "select"),
    "log_softmax": ("add", "mul", "sub", "div", "cast"),
    "lstm_steps": ("broadcast", "dims", "cast"),
    "gru_steps": ("broadcast", "dims", "cast"),
    "rnn_steps": ("broadcast", "dims", "cast"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Lowerer:
    """How nodes of a target become kernels: its lowerings by operator, the one of groups that are index rules
    all through, what it cannot do, and whether its devices branch.

    placed: the programs of regions for other devices. tell: the reason why a node runs on the host, from that
    of this device.
    """

    find: Callable[[Node], Lowering | None]
    refuses: Callable[[Node], str | None]
    target: object
    pointwise: Lowering = lower_pointwise
    branches: bool = False
    placed: Mapping[Graph, Program] = field(default_factory=dict)
    tell: Callable[[Node, str], str] = lambda node, reason: reason


def schedule(graph: Graph, lowerer: Lowerer) -> Scheduled:
    """The program of a graph. Nodes without a kernel become host steps, with the reason."""
    (scheduled,) = schedule_all([graph], lowerer)
    return scheduled


def schedule_all(graphs: Sequence[Graph], lowerer: Lowerer) -> list[Scheduled]:
    """The programs of graphs, on kernels and constants that they share; kernels differ in more than numbers."""
    scheduler = _Scheduler(lowerer, {}, {})
    programs = [scheduler.program(graph, ()).program for graph in graphs]
    instead = share(scheduler.kernels)
    kernels = {kernel.name: kernel for kernel, _ in instead.values()}
    return [Scheduled(_on(program, instead), kernels, scheduler.constants) for program in programs]


def _on(program: Program, instead: Mapping[str, tuple[Kernel, tuple[int, ...]]]) -> Program:
    """The program with other kernels, and the sizes that these take besides."""
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, KernelStep):
            kernel, sizes = instead[step.entry]
            step = step._replace(entry=kernel.name, sizes=(*step.sizes, *sizes))
        elif isinstance(step, ControlStep):
            step = step._replace(regions={name: _on(r, instead) for name, r in step.regions.items()})
        steps.append(step)
    return program._replace(steps=tuple(steps))


class _Declines(Exception):
    """Lowerings that did not take their groups: root (or last node) -> reason."""

    def __init__(self, reasons: dict[Node, str]):
        super().__init__(", ".join(reasons.values()))
        self.reasons = reasons


@dataclass(slots=True, eq=False)
class _Scheduler:
    """Kernels and constants are shared by a program and the programs of its regions."""

    lowerer: Lowerer
    kernels: dict[str, Kernel]
    constants: dict[str, np.ndarray]
    names: dict[Kernel, str] = field(default_factory=dict)
    constant_keys: dict[int, str] = field(default_factory=dict)
    makers: dict[Value, Node] = field(default_factory=dict)

    def program(self, graph: Graph, extra_inputs: Sequence[Value]) -> Scheduled:
        """Schedules one graph; a lowering that declines costs the node its company, then its kernel."""
        bare: dict[Node, str] = {}
        host = {node: r for node in graph.nodes if (r := self.lowerer.refuses(node)) is not None}
        while True:
            self.makers |= {value: node for node in graph.nodes for value in node.outputs}
            draft = _Draft(self, graph, bare, host)
            try:
                return Scheduled(draft.build(extra_inputs), self.kernels, self.constants)
            except _Declines as declined:
                twice = {node for node in declined.reasons if node in bare}
                composite = {node for node in twice if OPS[node.op].decompose is not None}
                host |= {node: declined.reasons[node] for node in twice - composite}
                bare |= declined.reasons
                if composite:
                    graph = decompose(graph, keep=lambda node, refused=composite: node not in refused)

    def kernel_name(self, kernel: Kernel) -> str:
        """The entry of a kernel; kernels that are equal but for the name share one."""
        plain = replace(kernel, name="")
        if plain not in self.names:
            self.names[plain] = f"{kernel.name}_{len(self.names)}"
            self.kernels[self.names[plain]] = replace(kernel, name=self.names[plain])
        return self.names[plain]

    def constant_key(self, array: np.ndarray) -> str:
        key = self.constant_keys.setdefault(id(array), f"c{len(self.constant_keys)}")
        self.constants[key] = array
        return key


class _Draft:
    """One attempt at a program."""

    def __init__(self, shared: _Scheduler, graph: Graph, bare: dict[Node, str], host: dict[Node, str]):
        self.shared, self.graph, self.bare, self.host = shared, graph, bare, host
        self.slots: list[Slot] = []
        self.slot_of: dict[Value | Temporary, int] = {}
        self.constants: dict[int, str] = {}
        self.steps: list[Step] = []
        self.unused: dict[Value, Node] = {}
        self.declined: dict[Node, str] = {}
        self.results = set(graph.outputs)

    def build(self, extra_inputs: Sequence[Value]) -> Program:
        graph = self.graph
        inputs = tuple(self.slot(v, "input") for v in (*graph.inputs, *extra_inputs))
        rules = Rules(self.has_lowering, self.feeds, frozenset(self.bare), frozenset(self.host))
        for item in fuse(graph, rules):
            self.add(item)
        if self.declined:
            raise _Declines(self.declined)
        outputs = tuple(self.need(v) for v in graph.outputs)
        found = {name: s for v in graph.inputs for name, s in type_symbols(v.type).items()}
        self.write_views_in_place(outputs, set(found))
        return Program(
            graph.name,
            tuple(self.slots),
            inputs,
            outputs,
            tuple(v.name for v in (*graph.inputs, *extra_inputs)),
            graph.output_names,
            self.constants,
            tuple(self.steps),
            {name: (s.lower, s.upper) for name, s in found.items()},
            checks_of(graph),
        )

    def write_views_in_place(self, outputs: Sequence[int], known: set[str]) -> None:
        """A result that is a view of a temporary makes that temporary the caller's array, if the sizes of
        the result are known when the temporary is written."""
        for output in outputs:
            root = root_among(self.slots, output)
            early = known | set(type_symbols(self.slots[root].type))
            if set(type_symbols(self.slots[output].type)) - early:
                continue
            if self.slots[root].kind == "temporary" and root not in outputs:
                self.slots[root] = self.slots[root]._replace(kind="output")

    def has_lowering(self, node: Node) -> bool:
        return node not in self.host and self.shared.lowerer.find(node) is not None

    def feeds(self, producer: Node, reader: Node) -> bool:
        if reader in self.bare:
            return False
        if OPS[reader.op].kind in ("reduction", "scatter") or reader.op == "concat":
            return True
        return producer.op == "constant" or producer.op in OFFERED.get(reader.op, ())

    def slot(self, value: Value | Temporary, kind: str, view_of: int | None = None) -> int:
        type_: Type = TensorType(value.dtype, (value.size,)) if isinstance(value, Temporary) else value.type
        self.slots.append(Slot(value.name, type_, kind, view_of))
        self.slot_of[value] = len(self.slots) - 1
        return len(self.slots) - 1

    def add(self, item: Group | Node) -> None:
        if isinstance(item, Group):
            self.add_group(item)
        elif item.op == "constant":
            self.unused[item.output] = item
        elif item.op == "reshape":
            self.slot(item.output, "temporary", self.need(item.inputs[0]))
        elif item.op in CONTROL:
            self.add_control(item)
        elif item.op == "on":
            self.add_placed(item)
        else:
            self.add_host(item)

    def add_group(self, group: Group) -> None:
        lowerer = self.shared.lowerer
        lowering = lowerer.find(group.root) if group.root else lowerer.pointwise
        calls = lowering(group, lowerer.target)
        if isinstance(calls, Declined):
            self.declined[group.root or group.nodes[-1]] = calls.reason
            calls = ()
        for value in group.outputs:
            self.slot(value, "output" if value in self.results else "temporary")
        for call in calls:
            self.add_call(group, call)

    def add_call(self, group: Group, call: KernelCall) -> None:
        for argument in call.arguments:
            if isinstance(argument, Temporary) and argument not in self.slot_of:
                self.slot(argument, "temporary")
        arguments = tuple(self.need(a) for a in call.arguments)
        writes = tuple(s for s, p in zip(arguments, call.kernel.parameters, strict=True) if p.writable)
        entry = self.shared.kernel_name(call.kernel)
        locations = tuple(dict.fromkeys(n.location for n in group.nodes if n.op != "constant"))
        self.steps.append(
            KernelStep(
                entry,
                arguments,
                call.sizes,
                call.grid,
                call.grain,
                call.flops,
                writes,
                locations,
                _label(group),
            )
        )

    def add_host(self, node: Node) -> None:
        inputs = tuple(self.need(v) for v in node.inputs)
        reason = self.host.get(node) or self.bare.get(node) or f"no kernel for {node.op}"
        reason = self.shared.lowerer.tell(node, reason)
        outputs = tuple(self.slot(v, "host") for v in node.outputs)
        self.steps.append(
            HostStep(node.op, dict(node.attributes), inputs, outputs, node.defines, node.location, reason)
        )

    def need(self, value: Value | Temporary) -> int:
        """The slot of a value; a constant gets one when it is first read."""
        if value in self.unused:
            self.constants[self.slot(value, "constant")] = self.shared.constant_key(
                self.unused.pop(value)["value"]
            )
        if value not in self.slot_of:
            raise CompileError(
                f"{value.name} is read before it is made: a fault of the scheduler or of a lowering"
            )
        return self.slot_of[value]

    def add_control(self, node: Node) -> None:
        regions, taken = {}, {}
        for name, region in node.regions.items():
            outside = captured(region)
            regions[name] = self.shared.program(region, outside).program
            taken[name] = tuple(self.need(v) for v in outside)
        inputs = tuple(self.need(v) for v in node.inputs)
        reason = "the device does not branch"
        if self.shared.lowerer.branches:
            reason = refusal(node, regions)
        if reason is None and node.op == "if":
            self.open_branch(node, regions, taken)
        elif reason is None and (rows := rows_of(node, self.shared.makers)) is not None:
            self.open_loop(node, regions["body"], inputs, taken["body"], rows)
        else:
            if reason is None:
                reason = f"its scanned results have {WHERE}; every {ROOM} iterations it comes to Python"
                regions = {"stretch": stretch_of(regions["body"], len(inputs) - 2, self.shared.constant_key)}
                taken = {"stretch": taken["body"]}
            outputs = tuple(self.slot(v, "host") for v in node.outputs)
            self.steps.append(
                ControlStep(node.op, inputs, outputs, regions, taken, node.defines, node.location, reason)
            )

    def result(self, value: Value) -> int:
        """The slot of a value that steps write."""
        return self.slot(value, "output" if value in self.results else "temporary")

    def opening(self, node: Node) -> Opening:
        return Opening(self.slots, self.constants, self.steps, node.op, node.location)

    def open_branch(self, node: Node, regions: Mapping[str, Program], taken: Mapping) -> None:
        results = tuple(map(self.result, node.outputs))
        self.opening(node).branch(self.need(node.inputs[0]), regions, taken, results)

    def open_loop(self, node: Node, body: Program, inputs, taken: Sequence[int], rows: Dim) -> None:
        """A loop among the steps. Where it defines how many rows there are, that is read from its count."""
        carried = len(inputs) - 2
        results = tuple(map(self.result, node.outputs[:carried]))
        scans = []
        for value in node.outputs[carried:]:
            if not node.defines:
                scans.append(self.result(value))
                continue
            room = TensorType(value.dtype, (rows, *value.shape[1:]))
            self.slots.append(Slot(value.name, room, "temporary"))
            scans.append(len(self.slots) - 1)
            self.slot(value, "temporary", scans[-1])
        zero = len(self.slots)
        self.slots.append(Slot("zero", TensorType(i64, ()), "constant"))
        self.constants[zero] = self.shared.constant_key(ZERO)
        opening, endless = self.opening(node), is_endless(node, self.shared.makers)
        count = opening.loop(inputs, body, taken, results, scans, rows, zero, endless)
        if node.defines:
            reason = "the sizes that a loop gives are read on the host"
            self.steps.append(HostStep("read_dims", {}, (count,), (), node.defines, node.location, reason))
        elif scans:
            opening.exactly(count, rows)

    def add_placed(self, node: Node) -> None:
        body: Graph = node["body"]
        inputs = tuple(self.need(v) for v in node.inputs)
        outputs = tuple(self.slot(v, "host") for v in node.outputs)
        moved = tuple(Moved(*each) for each in node["moved"])
        program = self.shared.lowerer.placed[body]
        self.steps.append(
            PlacedStep(node["device"], program, inputs, outputs, node.defines, node.location, moved)
        )


def _label(group: Group) -> str:
    """The ops of a group in order, for plans and profiles."""
    ops = [n.op for n in group.nodes if n.op != "constant"]
    return "+".join(ops if len(ops) <= 6 else [*ops[:3], f"({len(ops) - 5} more)", *ops[-2:]])
