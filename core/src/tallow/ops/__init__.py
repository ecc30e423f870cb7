"""The operators of a Graph, a row each."""

from tallow.ops.table import OPS, Op, Read, op, register

__all__ = ["OPS", "Op", "Read", "op", "register"]
