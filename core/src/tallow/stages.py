"""The stages between a Graph and its Program: the passes of all targets, those of one, and the lowerings of its backend."""

from __future__ import annotations

from tallow.backend import Backend, Target
from tallow.graph import Graph, Node
from tallow.kernel.expand import unable
from tallow.lower.common import COMMON
from tallow.lower.group import Lowering
from tallow.lower.pointwise import lower_pointwise
from tallow.ops import OPS
from tallow.passes.decompose import decompose
from tallow.passes.pipeline import clean, find_codes, find_composites, run_common
from tallow.schedule.program import Scheduled
from tallow.schedule.schedule import Lowerer, schedule
from tallow.verify import checked


def understand(graph: Graph) -> Graph:
    """The graph after the passes that know no target: folded, and what was written out recognised."""
    return find_composites(run_common(find_codes(graph)))


def prepare(graph: Graph, backend: Backend, target: Target) -> Graph:
    """The graph after all passes for a target, ready to schedule."""
    return specialise(understand(graph), backend, target)


def specialise(graph: Graph, backend: Backend, target: Target) -> Graph:
    """An understood graph after the passes for a target, ready to schedule."""
    graph = checked(decompose, graph, lambda node: find_lowering(backend, target, node) is not None)
    graph = run_common(graph)
    for each in backend.passes:
        graph = clean(checked(each, graph, target))
    return graph


def find_lowering(backend: Backend, target: Target, node: Node) -> Lowering | None:
    """The backend's lowering of a node, the operator's own, or the common one."""
    if backend.supports(node, target) is not None:
        return None
    own = OPS[node.op].lowerings
    return backend.lowerings.get(node.op) or own.get(backend.name) or own.get("") or COMMON.get(node.op)


def refusal(backend: Backend, target: Target, node: Node) -> str | None:
    """Why a node cannot be in a kernel of the target, or None."""
    reason = backend.supports(node, target)
    row = OPS[node.op]
    if reason is None and node.inputs and row.kind == "pointwise":
        reason = unable(node.op, node.inputs[-1].dtype)
    if reason is None and row.lowerings and not (row.index or find_lowering(backend, target, node)):
        reason = f"{node.op} has kernels for {', '.join(row.lowerings)} and none for {backend.name}"
    return reason


def lower(graph: Graph, backend: Backend, target: Target) -> Scheduled:
    """The program and kernels of a prepared graph."""
    return schedule(graph, lowerer_of(backend, target))


def lowerer_of(backend: Backend, target: Target) -> Lowerer:
    """How nodes become kernels of a target."""
    return Lowerer(
        find=lambda node: find_lowering(backend, target, node),
        refuses=lambda node: refusal(backend, target, node),
        target=target,
        pointwise=backend.lowerings.get("pointwise", lower_pointwise),
        branches=getattr(backend, "branches", False),
    )
