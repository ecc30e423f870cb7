"""Which passes run on every graph, and in what order."""

from __future__ import annotations

from tallow.graph import Graph
from tallow.passes.bounds import bound_sizes
from tallow.passes.clean import merge_equal, remove_dead
from tallow.passes.fold import fold_constants
from tallow.passes.loops import capture_unchanged
from tallow.passes.recognise import recognise
from tallow.passes.recognise.codes import recognise_codes
from tallow.passes.simplify import simplify
from tallow.verify import checked

COMMON = (
    remove_dead,
    capture_unchanged,
    bound_sizes,
    fold_constants,
    merge_equal,
    simplify,
    merge_equal,
    remove_dead,
)


def clean(graph: Graph) -> Graph:
    """The graph folded, merged and without what is dead."""
    for each in (fold_constants, merge_equal, remove_dead):
        graph = checked(each, graph)
    return graph


def run_common(graph: Graph) -> Graph:
    """The target-independent passes."""
    for each in COMMON:
        graph = checked(each, graph)
    return graph


def find_codes(graph: Graph) -> Graph:
    """The graph with products of dequantised values as integer products; before anything is folded."""
    return checked(recognise_codes, graph)


def find_composites(graph: Graph) -> Graph:
    """The graph with operators that were written out recognised again; before anything is decomposed."""
    return checked(recognise, graph)
