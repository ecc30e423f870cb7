"""Which algorithm computes a convolution: estimates of arithmetic and of bytes, in seconds of one core."""

from __future__ import annotations

import math

from tallow.backend import Target
from tallow.choices import Candidate
from tallow.dim import bounds, product
from tallow.graph import Node
from tallow_cpu.winograd import TILES, kinds, tile_size

DIRECT = 0  # tile size that stands for direct summation
BANDWIDTH = 12e9  # bytes a second at which weights arrive that no cache holds
CLOCK = 3e9
LARGEST_DATA = 1200 << 10  # bytes of a thread's stack that the transformed data of a block may take
UNKNOWN = 56  # pixels of an axis that only the run can tell


def choose_tile(node: Node, target: Target) -> int:
    """The Winograd tile of a convolution, or DIRECT."""
    x, w = node.inputs
    known = set(w.shape[2:]) == {3} and set(node["strides"]) in ({1}, {2})
    known = known and (set(node["strides"]) == {1} or set(node["dilations"]) == {1})
    if not known or x.rank != 4 or node["groups"] != 1 or node.output.dtype.name != "f32":
        return DIRECT
    if any(not isinstance(p, int) for pair in node["pads"] for p in pair) or min(w.shape[:2]) < 16:
        return DIRECT
    candidates = [Candidate(tile, estimate(node, tile, target)) for tile in (DIRECT, *TILES)]
    return target.choices.choose("algorithm", node, [c for c in candidates if c.estimate < math.inf])


def estimate(node: Node, tile: int, target: Target) -> float:
    """Seconds on one core, by a model: products at the speed of the register tile, transforms at a
    quarter of the lanes' speed, weights at the speed of memory once they exceed the second cache."""
    x, w = node.inputs
    n, channels = w.shape[:2]
    lanes = max(target.vector_bytes // 4, 4)
    images = x.shape[0] if isinstance(x.shape[0], int) else 1
    spatial = [bounds(d)[1] or UNKNOWN for d in node.output.shape[2:]]
    if tile == DIRECT:
        rows = images * product(spatial)
        work = 9 * rows * channels * n / lanes
        return work / CLOCK + _transfer(9 * channels * n * 4, target)
    positions = tile_size(tile, node["strides"][0]) ** 2
    rows = images * product(
        -(-d // (tile * step)) * step for d, step in zip(spatial, node["dilations"], strict=True)
    )
    rows = -(-rows // 4) * 4
    if 16 * positions * (channels + 16) * 4 > LARGEST_DATA:
        return math.inf
    work = positions * rows * channels * n / lanes
    work += rows * positions * 4 * (channels + n) / lanes
    return work / CLOCK + _transfer(kinds(tile) ** 2 * channels * n * 4, target)


def _transfer(size: int, target: Target) -> float:
    return size / BANDWIDTH / 2 if size > target.limits.get("l2", 1 << 19) else 0.0
