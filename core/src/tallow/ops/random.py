"""Random numbers, from numpy's Philox generator; a fresh seed for each run when none is given."""

from __future__ import annotations

import numpy as np

from tallow.graph import TensorType
from tallow.ops.rules import tensors
from tallow.ops.table import Op, register


def _generator(attributes) -> np.random.Generator:
    seed = attributes.get("seed")
    key = None if seed is None else int(np.float32(seed).view(np.uint32))
    return np.random.Generator(np.random.Philox(key))


def _infer(types, attributes):
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
    return ((_generator(a).random(x.shape) < x.astype(np.float64)).astype(a["dtype"].numpy),)


def _infer_multinomial(types, attributes):
    (x,) = tensors("multinomial", types)
    return (TensorType(attributes["dtype"], (x.shape[0], attributes["samples"])),)


def _evaluate_multinomial(arrays, a):
    """Gumbel's trick on unnormalised log-probabilities."""
    (x,) = arrays
    noise = _generator(a).gumbel(size=(a["samples"], *x.shape))
    return ((x[None].astype(np.float64) + noise).argmax(-1).T.astype(a["dtype"].numpy),)


register(Op("random_uniform", "host", _infer, _evaluate_uniform, arity=(0, 0)))
register(Op("random_normal", "host", _infer, _evaluate_normal, arity=(0, 0)))
register(Op("bernoulli", "host", _infer_bernoulli, _evaluate_bernoulli))
register(Op("multinomial", "host", _infer_multinomial, _evaluate_multinomial))
