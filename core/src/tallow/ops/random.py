"""Random numbers; a fresh seed for each run when none is given.

A seeded draw is that of numpy's RandomState (MT19937), which ONNX's reference implementation uses too.
"""

from __future__ import annotations

import math

import numpy as np

from tallow.errors import GraphError
from tallow.graph import TensorType
from tallow.ops.rules import tensors
from tallow.ops.table import Op, register


def _generator(attributes) -> np.random.RandomState:
    seed = attributes.get("seed")
    unseeded = seed is None or np.isnan(seed)
    return np.random.RandomState(None if unseeded else int(seed) % (1 << 32))


def _infer_uniform(types, a):
    if not math.isfinite(a["high"] - a["low"]):
        raise GraphError(f"random_uniform: expected finite bounds, got {a['low']} and {a['high']}")
    return _drawn(a)


def _infer_normal(types, a):
    if not (math.isfinite(a["mean"]) and 0 <= a["scale"] < math.inf):
        raise GraphError(
            f"random_normal: expected a finite mean and scale of 0 or more, got {a['mean']} and {a['scale']}"
        )
    return _drawn(a)


def _drawn(attributes):
    return (TensorType(attributes["dtype"], tuple(attributes["shape"])),)


def _evaluate_uniform(arrays, a):
    return (_generator(a).uniform(a["low"], a["high"], a["shape"]).astype(a["dtype"].numpy),)


def _evaluate_normal(arrays, a):
    return (_generator(a).normal(a["mean"], a["scale"], a["shape"]).astype(a["dtype"].numpy),)


def _infer_bernoulli(types, attributes):
    (x,) = tensors("bernoulli", types)
    return (TensorType(attributes["dtype"], x.shape),)


def _evaluate_bernoulli(arrays, a):
    (x,) = arrays
    return (_generator(a).binomial(1, x.astype(np.float64), x.shape).astype(a["dtype"].numpy),)


def _infer_multinomial(types, attributes):
    (x,) = tensors("multinomial", types)
    return (TensorType(attributes["dtype"], (x.shape[0], attributes["samples"])),)


def _evaluate_multinomial(arrays, a):
    """Gumbel's trick on unnormalised log-probabilities."""
    (x,) = arrays
    noise = _generator(a).gumbel(size=(a["samples"], *x.shape))
    return ((x[None].astype(np.float64) + noise).argmax(-1).T.astype(a["dtype"].numpy),)


register(Op("random_uniform", "host", _infer_uniform, _evaluate_uniform, arity=(0, 0)))
register(Op("random_normal", "host", _infer_normal, _evaluate_normal, arity=(0, 0)))
register(Op("bernoulli", "host", _infer_bernoulli, _evaluate_bernoulli))
register(Op("multinomial", "host", _infer_multinomial, _evaluate_multinomial))
