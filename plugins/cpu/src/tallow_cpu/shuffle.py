"""Channel shuffles (Zhang et al., ShuffleNet, 2017): channel c of shuffle(x, k) is channel (c % k) * (C / k) + c // k of x.

A group of a convolution that reads shuffled channels reads k runs of neighbours of x. Where the runs
differ in length, all are as long as the longest, filled up with zeros.
"""

from __future__ import annotations

import numpy as np


def shuffle(x: np.ndarray, count: int, axis: int) -> np.ndarray:
    """x with its channels shuffled; `count` divides them."""
    axis %= x.ndim
    split = x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
    return split.swapaxes(axis, axis + 1).reshape(x.shape)


def unshuffle(x: np.ndarray, count: int, axis: int) -> np.ndarray:
    """The inverse of `shuffle`."""
    return shuffle(x, x.shape[axis] // count, axis)


def run_length(each: int, count: int) -> int:
    """Elements of a run where groups have `each` channels."""
    return -(-each // count)


def places(groups: int, each: int, count: int) -> np.ndarray:
    """[groups, count, run]: which channel of its group each element of the runs is, -1 for what is filled up."""
    start = each * np.arange(groups)[:, None, None]
    run = np.arange(count)[None, :, None]
    first = -(-(start - run) // count)
    at = (first + np.arange(run_length(each, count))) * count + run - start
    return np.where(at < each, at, -1)


def to_runs(w: np.ndarray, count: int) -> np.ndarray:
    """Weights [groups, n, each, taps] as matrices [groups, taps * count * run, n]."""
    groups, n, each, taps = w.shape
    at = places(groups, each, count).reshape(groups, -1)
    filled = np.concatenate([w, np.zeros_like(w[:, :, :1])], axis=2)  # -1 picks the zeros
    picked = np.take_along_axis(filled, at[:, None, :, None], axis=2)
    return picked.transpose(0, 3, 2, 1).reshape(groups, -1, n)


def from_runs(matrices: np.ndarray, each: int, count: int) -> np.ndarray:
    """The inverse of `to_runs`."""
    groups, depth, n = matrices.shape
    at = places(groups, each, count).reshape(groups, -1)
    split = matrices.reshape(groups, -1, at.shape[1], n).transpose(0, 3, 2, 1)
    order = np.argsort(np.where(at < 0, each, at), axis=1, kind="stable")[:, :each]
    return np.take_along_axis(split, order[:, None, :, None], axis=2)
