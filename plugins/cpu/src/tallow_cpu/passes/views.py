"""Views: where the elements of a value lie in the memory of the value that it is made from by movement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tallow.dim import Dim, product
from tallow.graph import Node, Value
from tallow.ops.movement import factor_groups

Run = tuple[Dim, Dim]  # how many elements, and the step from one to the next
Axis = tuple[Run, ...]  # runs within each other, the outermost first


@dataclass(frozen=True, slots=True)
class View:
    """Element `index` is element `offset + sum(index * strides)` of `base`, counted row by row.

    An axis that was merged of axes without a common step is several runs until it is split again.
    """

    base: Value
    offset: Dim
    axes: tuple[Axis, ...]

    @property
    def strides(self) -> tuple[Dim, ...] | None:
        """The step of each axis, or None where an axis has no single one."""
        merged = [_merge(axis) for axis in self.axes]
        return None if None in merged else tuple(step for _, step in merged)


def whole(value: Value) -> View:
    """A value as it lies in its own memory."""
    steps = [product(value.shape[axis + 1 :]) for axis in range(value.rank)]
    return View(value, 0, tuple(((size, step),) for size, step in zip(value.shape, steps, strict=True)))


def view_of(value: Value, made: Mapping[Value, Node]) -> View:
    """The view through as many transposes, reshapes, slices and broadcasts as steps can express."""
    view = _trace(value, made)
    return whole(value) if view.strides is None else view


def _trace(value: Value, made: Mapping[Value, Node]) -> View:
    node = made.get(value)
    rule = None if node is None else _RULES.get(node.op)
    if rule is None:
        return whole(value)
    return rule(node, _trace(node.inputs[0], made)) or whole(value)


def _merge(axis: Axis) -> Run | None:
    """One run that is the same as several."""
    runs = [run for run in axis if run[0] != 1]
    for (_, outer), (size, inner) in zip(runs, runs[1:], strict=False):
        if outer != size * inner:
            return None
    return (product(size for size, _ in runs), runs[-1][1]) if runs else (1, 0)


def _transpose(node: Node, view: View) -> View:
    return View(view.base, view.offset, tuple(view.axes[a] for a in node["permutation"]))


def _slice(node: Node, view: View) -> View | None:
    offset, axes = view.offset, []
    for start, step, size, axis in zip(
        node["starts"], node["steps"], node.output.shape, view.axes, strict=True
    ):
        run = _merge(axis)
        if run is None:
            return None
        offset = offset + start * run[1]
        axes.append(((size, run[1] * step),))
    return View(view.base, offset, tuple(axes))


def _broadcast(node: Node, view: View) -> View | None:
    """Axes that repeat have step 0; no view where a size may turn out to be 1."""
    shape = node.output.shape
    new = len(shape) - len(view.axes)
    axes: list[Axis] = [((size, 0),) for size in shape[:new]]
    for axis, want in zip(view.axes, shape[new:], strict=True):
        have = product(size for size, _ in axis)
        if have != want and have != 1:
            return None
        axes.append(axis if have == want else ((want, 0),))
    return View(view.base, view.offset, tuple(axes))


def _reshape(node: Node, view: View) -> View | None:
    """Runs in their order, dealt out to the axes of the new shape."""
    runs = [run for axis in view.axes for run in axis if run[0] != 1]
    shape = node.output.shape
    axes: list[Axis] = [((1, 0),)] * len(shape)
    for left, right in factor_groups(tuple(size for size, _ in runs), shape):
        places = [axis for axis in right if shape[axis] != 1]
        mine = tuple(runs[i] for i in left)
        if len(places) == 1:
            axes[places[0]] = mine
        elif places and not _split(mine, places, shape, axes):
            return None
    return View(view.base, view.offset, tuple(axes))


def _split(runs: Axis, places: Sequence[int], shape: Sequence[Dim], axes: list[Axis]) -> bool:
    """One run dealt out to several axes; False where it is none."""
    run = _merge(runs)
    if run is None:
        return False
    step = run[1]
    for axis in reversed(places):
        axes[axis] = ((shape[axis], step),)
        step = step * shape[axis]
    return True


_RULES = {"transpose": _transpose, "slice": _slice, "broadcast": _broadcast, "reshape": _reshape}
