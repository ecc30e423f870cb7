"""Fusion: which values are written to memory, and the group of nodes that computes each.

Nodes are visited from the results back. A node joins the group of its readers when they are all in
one group and nothing is lost by computing it there; otherwise its results are materialised and it
starts a group of its own. A broadcast joins every group that reads it: written out it is larger than
what it repeats. A group has at most one root (a node with a lowering of its own); the nodes after the
root are its epilogue, the nodes before it its prologue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tallow.dim import Dim, bounds
from tallow.graph import Graph, Node, TensorType, Value, captured, consumers
from tallow.lower.group import Group
from tallow.lower.pointwise import is_inlinable
from tallow.ops import OPS
from tallow.scalar import SCALAR

DEEPEST = 64  # pointwise nodes inlined one in another: lowerings and what follows recurse over them
MOVED = 4  # pointwise nodes that count as one with an index of its own, which is an expression too
PLACES = 4  # indices at which one node is written out in a kernel: resizes of resizes would multiply them
EXPENSIVE = 6  # flops per element from which a value is not computed again for each reader
READ_ONCE = ("reduction", "movement", "scatter")  # kinds of root that read each operand element once
SPREAD = ("concat", "scatter_elements", "scatter_nd")  # roots whose result is written by several kernels


@dataclass(frozen=True, slots=True)
class Rules:
    """What the scheduler may assume of a target.

    lowered: whether a node has a lowering of its own there (else it is inlined, a view or a host step).
    feeds: whether `producer` may be inlined into the operands of root `reader`.
    bare: nodes whose lowering refused a prologue or an epilogue, which therefore stand alone.
    host: nodes that run in Python.
    """

    lowered: Callable[[Node], bool]
    feeds: Callable[[Node, Node], bool]
    bare: frozenset[Node] = frozenset()
    host: frozenset[Node] = frozenset()

    def alone(self, node: Node) -> bool:
        return node in self.bare or node in self.host


@dataclass(slots=True, eq=False)
class _Draft:
    """A group while it grows: `nodes` in reverse order, which of them come after the root, how deep each
    is inlined, and at which indices: an index is the chain of nodes that changed it."""

    tail: Node
    root: Node | None = None
    nodes: list[Node] = field(default_factory=list)
    after: set[Node] = field(default_factory=set)
    depth: dict[Node, int] = field(default_factory=dict)
    places: dict[Node, frozenset[tuple]] = field(default_factory=dict)

    def add(self, node: Node, using: list[Node]) -> None:
        self.nodes.append(node)
        self.depth[node] = self.depth_for(node, using)
        self.places[node] = self.places_for(node, using)

    def depth_for(self, node: Node, using: list[Node]) -> int:
        """How deep a node with these readers is inlined; at a root reading begins anew."""
        if node is self.root:
            return 0
        below = max((self.depth.get(user, 0) for user in using), default=0)
        return below + (1 if OPS[node.op].kind == "pointwise" else MOVED)

    def places_for(self, node: Node, using: list[Node]) -> frozenset[tuple]:
        """The indices at which these readers read a node; a root reads at one of its own."""
        found: set[tuple] = set()
        for user in (u for u in using if u in self.places):
            kept = OPS[user.op].kind == "pointwise" or _reads_indices(user, node.output)
            for place in self.places[user]:
                found.add(place if kept else (user,) if user is self.root else (user, *place))
        return frozenset(found) or frozenset([()])


def fuse(graph: Graph, rules: Rules) -> list[Group | Node]:
    """The graph as a list, in an order in which it can run, of groups and of nodes that stand alone:
    views, constants, host steps and control flow."""
    readers = consumers(graph)
    escaping = set(graph.outputs)
    escaping |= {v for node in graph.nodes for region in node.regions.values() for v in captured(region)}
    home: dict[Node, list[_Draft]] = {}
    drafts: list[_Draft] = []
    for node in reversed(graph.nodes):
        joined = _join(node, readers, escaping, home, rules)
        if not joined:
            joined = [_Draft(node, node if rules.lowered(node) else None)]
            drafts += joined
        elif rules.lowered(node):
            joined[0].root = node
            joined[0].after = set(joined[0].nodes)
        using = [u for v in node.outputs for u in readers.get(v, ())]
        for draft in joined:
            draft.add(node, using)
        home[node] = joined
    scalars = {node.output: node for node in graph.nodes if node.op == "constant" and is_inlinable(node)}
    finished = {d.tail: _finish(d, rules, scalars) for d in drafts}
    result: list[Group | Node] = []
    for node in graph.nodes:
        if node in finished:
            result.extend(finished[node])
    return result


def _join(node: Node, readers, escaping, home, rules: Rules) -> list[_Draft]:
    """The drafts that absorb the node, none when its results must be in memory."""
    if node.op == "constant" or rules.alone(node) or any(v in escaping for v in node.outputs):
        return []
    if not (rules.lowered(node) or is_inlinable(node)) or len(node.outputs) != 1:
        return []
    using = readers.get(node.output, [])
    drafts = list(dict.fromkeys(draft for user in using for draft in home[user]))
    if len(drafts) > 1 and (rules.lowered(node) or not _repeats(node)):
        return []
    users = ([u for u in using if draft in home[u]] for draft in drafts)
    fits = all(_absorbs(draft, node, mine, rules) for draft, mine in zip(drafts, users, strict=True))
    return drafts if fits else []


def _absorbs(draft: _Draft, node: Node, using: list[Node], rules: Rules) -> bool:
    """Whether a draft in which `using` read the node may compute it."""
    if not _accepts(draft, rules) or draft.depth_for(node, using) > DEEPEST:
        return False
    if len(draft.places_for(node, using)) > PLACES:
        return False
    if rules.lowered(node):
        return node.op not in SPREAD and draft.root is None and _same_place(node.output, draft)
    for user in using:
        if user is draft.root and not rules.feeds(node, user):
            return False
        if (
            user not in draft.after
            and user is not draft.root
            and draft.root is not None
            and not rules.feeds(node, draft.root)
        ):
            return False
    return not _too_dear(node, using, draft)


def _repeats(node: Node) -> bool:
    """Whether the node is a broadcast to at least twice the size, if to anything at all."""
    if node.op != "broadcast":
        return False
    have, want = node.inputs[0].shape, node.output.shape
    have = (1,) * (len(want) - len(have)) + have
    return any(h == 1 and isinstance(w, int) and w > 1 for h, w in zip(have, want, strict=True))


def _accepts(draft: _Draft, rules: Rules) -> bool:
    """Whether a draft is a kernel at all: its tail is a root or an index rule."""
    return not rules.alone(draft.tail) and (draft.root is not None or is_inlinable(draft.tail))


def _same_place(value: Value, draft: _Draft) -> bool:
    """Whether every node of the draft that depends on `value` is pointwise on its very shape, so that
    the result's element i needs the value's element i and no other."""
    touched = {value}
    for node in reversed(draft.nodes):
        if not touched.intersection(node.inputs):
            continue
        if OPS[node.op].kind != "pointwise" or node.output.shape != value.shape:
            return False
        touched.add(node.output)
    return draft.tail.outputs[0] in touched


def _reads_indices(user: Node, value: Value) -> bool:
    """Whether a gather takes the indices of its own elements from `value`."""
    return (
        OPS[user.op].kind == "gather"
        and user.inputs[0] is not value
        and user.output.shape == value.type.shape
    )


def _too_dear(node: Node, using: list[Node], draft: _Draft) -> bool:
    """Whether inlining would compute an expensive element many times."""
    cost = SCALAR[node.op].flops if node.op in SCALAR else 2 if OPS[node.op].kind == "gather" else 0
    if cost < EXPENSIVE:
        return False
    return any(_larger(_extent(user, draft), node.output.type.size) for user in using)


def _extent(user: Node, draft: _Draft) -> Dim:
    """How many elements a reader makes; a root counts as reading its operands many times over."""
    if user is draft.root and OPS[user.op].kind not in READ_ONCE:
        return user.inputs[0].type.size * 1024
    return max(
        (v.type.size for v in (*user.inputs, *user.outputs) if isinstance(v.type, TensorType)), key=_weight
    )


def _weight(size: Dim) -> int:
    low, high = bounds(size)
    return high if high is not None else (low or 0) + (1 << 40)


def _larger(a: Dim, b: Dim) -> bool:
    """Whether a is more than twice b, as far as can be told."""
    low, _ = bounds(a - b * 2)
    return isinstance(a, int) and isinstance(b, int) and a > 2 * b or (low is not None and low > 0)


def _finish(draft: _Draft, rules: Rules, scalars: dict[Value, Node]) -> list[Group | Node]:
    """The group of a draft, its views on materialised values split off as nodes of their own.

    Scalar constants are inlined into every group that reads them."""
    tail = draft.tail
    if tail in rules.host or (draft.root is None and not is_inlinable(tail)):
        return [tail]
    if tail.op == "constant" or (len(draft.nodes) == 1 and tail.op == "reshape"):
        return [tail]
    nodes = list(reversed(draft.nodes))
    inside = {v for node in nodes for v in node.outputs}
    views = [n for n in nodes if n.op == "reshape" and n is not tail and n.inputs[0] not in inside]
    kept = [n for n in nodes if n not in views]
    kept = [*dict.fromkeys(scalars[v] for n in kept for v in n.inputs if v in scalars), *kept]
    inside = {v for node in kept for v in node.outputs}
    reads = dict.fromkeys(v for node in kept for v in node.inputs if v not in inside)
    prologue, epilogue = tuple(kept), ()
    if draft.root is not None:
        prologue = tuple(n for n in kept if n is not draft.root and n not in draft.after)
        feeding = _feeding(draft.root, prologue)
        epilogue = tuple(n for n in kept if n is not draft.root and n not in feeding)
        prologue = tuple(n for n in prologue if n in feeding)
    return [*views, Group(draft.root, prologue, epilogue, tuple(reads), tail.outputs)]


def _feeding(root: Node, nodes: tuple[Node, ...]) -> set[Node]:
    """Which nodes the operands of the root depend on."""
    needed = set(root.inputs)
    found: set[Node] = set()
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            found.add(node)
            needed.update(node.inputs)
    return found
