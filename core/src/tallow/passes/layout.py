"""Convolutions as a layout sees them: channels first or last, windows or matrix products."""

from __future__ import annotations

from tallow.graph import Node


def to_last(rank: int) -> tuple[int, ...]:
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> tuple[int, ...]:
    return (0, rank - 1, *range(1, rank - 1))


def is_product(node: Node) -> bool:
    """Whether a convolution with channels last is a matrix product: its window is one pixel."""
    steps = zip(node.inputs[1].shape[2:], node["strides"], node["pads"], strict=True)
    return node["groups"] == 1 and all(k == s == 1 and p == (0, 0) for k, s, p in steps)
