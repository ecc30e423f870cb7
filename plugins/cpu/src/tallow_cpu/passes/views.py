"""Views: where the elements of a value lie in the memory of the value that it is made from by movement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tallow.dim import Dim, product
from tallow.graph import Node, Value
from tallow.ops.movement import factor_groups


@dataclass(frozen=True, slots=True)
class View:
    """Element `index` is element `offset + sum(index * strides)` of `base`, counted row by row."""

    base: Value
    offset: Dim
    shape: tuple[Dim, ...]
    strides: tuple[Dim, ...]


def whole(value: Value) -> View:
    """A value as it lies in its own memory."""
    return View(value, 0, value.shape, row_major(value.shape))


def row_major(shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
    return tuple(product(shape[axis + 1 :]) for axis in range(len(shape)))


def view_of(value: Value, made: Mapping[Value, Node]) -> View:
    """The view through as many transposes, reshapes, slices and broadcasts as strides can express."""
    node = made.get(value)
    rule = None if node is None else _RULES.get(node.op)
    if rule is None:
        return whole(value)
    return rule(node, view_of(node.inputs[0], made)) or whole(value)


def _transpose(node: Node, view: View) -> View:
    order = node["permutation"]
    shape, strides = (tuple(parts[a] for a in order) for parts in (view.shape, view.strides))
    return View(view.base, view.offset, shape, strides)


def _slice(node: Node, view: View) -> View:
    offset, strides = view.offset, []
    for start, step, stride in zip(node["starts"], node["steps"], view.strides, strict=True):
        offset = offset + start * stride
        strides.append(stride * step)
    return View(view.base, offset, node.output.shape, tuple(strides))


def _broadcast(node: Node, view: View) -> View | None:
    """Axes that repeat have stride 0; none where a size may turn out to be 1."""
    shape = node.output.shape
    new = len(shape) - len(view.shape)
    strides: list[Dim] = [0] * new
    for have, want, stride in zip(view.shape, shape[new:], view.strides, strict=True):
        if have != want and have != 1:
            return None
        strides.append(stride if have == want else 0)
    return View(view.base, view.offset, shape, tuple(strides))


def _reshape(node: Node, view: View) -> View | None:
    """Axes split at will; axes merge where the outer one steps over the whole inner one."""
    shape = node.output.shape
    strides: list[Dim] = [0] * len(shape)
    for left, right in factor_groups(view.shape, shape):
        left = [axis for axis in left if view.shape[axis] != 1]
        for outer, inner in zip(left, left[1:], strict=False):
            if view.strides[outer] != view.strides[inner] * view.shape[inner]:
                return None
        step: Dim = view.strides[left[-1]] if left else 0
        for axis in reversed(right):
            strides[axis] = step
            step = step * shape[axis]
    return View(view.base, view.offset, shape, tuple(strides))


_RULES = {"transpose": _transpose, "slice": _slice, "broadcast": _broadcast, "reshape": _reshape}
