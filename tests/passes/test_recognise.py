"""Patterns that exporters write become one operator, with the same meaning on any input."""

from __future__ import annotations

import math

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.graph import Graph
from tallow.passes.clean import remove_dead
from tallow.passes.pipeline import run_common
from tallow.passes.recognise import recognise
from tallow.verify import verify

B, H, S, T, D = 2, 4, 5, 7, 8
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e38, -1e-38)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op != "constant"]


def recognised(graph: Graph) -> Graph:
    return verify(remove_dead(recognise(verify(run_common(graph)))))


def same(before: Graph, after: Graph, special: bool = False) -> None:
    rng = np.random.default_rng(0)
    inputs = {}
    for value in before.inputs:
        array = rng.normal(size=value.shape).astype("f4")
        if special:
            array[rng.random(array.shape) < 0.02] = rng.choice(SPECIAL)
        inputs[value.name] = array if value.dtype.name == "f32" else array > 0
    want, got = tallow.evaluate(before, inputs), tallow.evaluate(after, inputs)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-6)


class Written:
    """Attention in primitives; a variant replaces one of its parts."""

    def __init__(self):
        self.b = b = Builder()
        self.q = b.input("q", "f32", (B, S, H * D))
        self.k = b.input("k", "f32", (B, T, H * D))
        self.v = b.input("v", "f32", (B, T, H * D))

    def heads(self, x, count=H):
        b = self.b
        return b.transpose(b.reshape(x, shape=(*x.shape[:2], count, D)), permutation=(0, 2, 1, 3))

    def scores(self, q, kt):
        return self.b.mul(self.b.matmul(q, kt), D**-0.5)

    def mask(self, scores):
        return scores

    def guard(self, weights):
        return weights

    def finish(self) -> Graph:
        b = self.b
        kt = b.transpose(self.heads(self.k), permutation=(0, 1, 3, 2))
        weights = self.guard(b.softmax(self.mask(self.scores(self.heads(self.q), kt)), axis=3))
        return b.finish({"y": b.matmul(weights, self.heads(self.v))})


class Plain(Written):
    """The scale after the product."""


class Divided(Written):
    def scores(self, q, kt):
        return self.b.div(self.b.matmul(q, kt), math.sqrt(D))


class OnBoth(Written):
    """The square root of the scale on either operand."""

    def scores(self, q, kt):
        return self.b.matmul(self.b.mul(q, D**-0.25), self.b.mul(kt, D**-0.25))


class BeforeHeads(Written):
    """The scale before heads are split."""

    def __init__(self):
        super().__init__()
        self.q = self.b.mul(self.q, D**-0.5)

    def scores(self, q, kt):
        return self.b.matmul(q, kt)


class Unscaled(Written):
    def scores(self, q, kt):
        return self.b.matmul(q, kt)


class Capped(Written):
    def scores(self, q, kt):
        b = self.b
        return b.mul(b.tanh(b.div(b.mul(b.matmul(q, kt), D**-0.5), 3.0)), 3.0)


class Added(Written):
    """A bias of each head, added."""

    def mask(self, scores):
        return self.b.add(self.b.input("bias", "f32", (H, 1, T)), scores)


class Kept(Written):
    """where(mask, scores, least)."""

    def mask(self, scores):
        return self.b.select(self.b.input("mask", "bool", (B, 1, S, T)), scores, -3.4e38)


class Filled(Written):
    """where(mask, -inf, scores)."""

    def mask(self, scores):
        b = self.b
        return b.select(b.input("mask", "bool", (S, T)), b.scalar(-math.inf, "f32"), scores)


class Guarded(Filled):
    """Weights that are no number made 0."""

    def guard(self, weights):
        return self.b.select(self.b.isnan(weights), self.b.scalar(0, "f32"), weights)


VARIANTS = (Plain, Divided, OnBoth, BeforeHeads, Unscaled, Capped, Added, Kept, Filled, Guarded)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.__name__)
@pytest.mark.parametrize("special", [False, True])
def test_attention_is_recognised(variant, special):
    graph = variant().finish()
    after = recognised(graph)
    assert ops(after).count("attention") == 1
    assert not {"softmax", "matmul", "mul", "add", "select", "tanh"}.intersection(ops(after))
    same(graph, after, special)


def test_the_scale_of_attention_is_the_product_of_all_scales():
    (node,) = (n for n in recognised(OnBoth().finish()).nodes if n.op == "attention")
    assert node["scale"] == pytest.approx(D**-0.5)


def test_repeated_heads_are_read_once():
    w = Written()
    b = w.b
    k = v = None
    shared = b.input("shared", "f32", (B, T, 2 * D))

    def repeated(x):
        opened = b.reshape(w.heads(x, 2), shape=(B, 2, 1, T, D))
        return b.reshape(b.broadcast(opened, shape=(B, 2, 2, T, D)), shape=(B, H, T, D))

    k, v = repeated(shared), repeated(b.neg(shared))
    scores = b.matmul(w.heads(w.q), b.transpose(k, permutation=(0, 1, 3, 2)))
    graph = b.finish({"y": b.matmul(b.softmax(scores, axis=3), v)})
    after = recognised(graph)
    (node,) = (n for n in after.nodes if n.op == "attention")
    assert node.inputs[1].shape == node.inputs[2].shape == (B, 2, T, D)
    assert "broadcast" not in ops(after)
    same(graph, after)


@pytest.mark.parametrize("lead", [(), (6,)])
def test_attention_without_heads(lead):
    b = Builder()
    q, k, v = (b.input(name, "f32", (*lead, n, D)) for name, n in (("q", S), ("k", T), ("v", T)))
    turned = b.transpose(k, permutation=(*range(len(lead)), len(lead) + 1, len(lead)))
    graph = b.finish({"y": b.matmul(b.softmax(b.matmul(q, turned), axis=len(lead) + 1), v)})
    after = recognised(graph)
    assert ops(after).count("attention") == 1
    same(graph, after)


class ScoresRead(Written):
    def mask(self, scores):
        self.read = scores
        return scores


class WeightsRead(Written):
    def guard(self, weights):
        self.read = weights
        return weights


@pytest.mark.parametrize("variant", [ScoresRead, WeightsRead])
def test_attention_whose_inside_is_read_is_left_alone(variant):
    w = variant()
    inner = w.finish()
    graph = w.b.finish({"y": inner.outputs[0], "read": w.read})
    assert "attention" not in ops(recognised(graph))


def test_a_mask_that_makes_more_scores_is_left_alone():
    b = Builder()
    q, k, v = (b.input(name, "f32", (1, 1, n, D)) for name, n in (("q", S), ("k", T), ("v", T)))
    mask = b.input("mask", "f32", (B, H, S, T))
    scores = b.add(b.matmul(q, b.transpose(k, permutation=(0, 1, 3, 2))), mask)
    graph = b.finish({"y": b.matmul(b.softmax(scores, axis=3), v)})
    assert "attention" not in ops(recognised(graph))


def test_a_softmax_over_queries_is_left_alone():
    b = Builder()
    q, k, v = (b.input(name, "f32", (B, H, S, D)) for name in "qkv")
    scores = b.matmul(q, b.transpose(k, permutation=(0, 1, 3, 2)))
    graph = b.finish({"y": b.matmul(b.softmax(scores, axis=2), v)})
    assert "attention" not in ops(recognised(graph))


def rotated(b: Builder, x, cosine, sine, swapped=False):
    """x * cosine + (its halves exchanged, one negated) * sine."""
    half = x.shape[3] // 2

    def part(start):
        shape = (*x.shape[:3], half)
        return b.slice(x, starts=(0, 0, 0, start), steps=(1, 1, 1, 1), shape=shape)

    first, second = part(0), b.neg(part(half))
    halves = (first, second) if swapped else (second, first)
    return b.add(b.mul(x, cosine), b.mul(b.concat(*halves, axis=3), sine))


def angles(b: Builder, tokens, size, other=None):
    """Both tables, of angles that are the same in both halves of the features (or are not)."""
    half = b.input("angles", "f32", (B, tokens, size // 2))
    both = b.concat(half, half if other is None else other(half), axis=2)
    shape = (B, 1, tokens, size)
    return b.reshape(b.mul(b.cos(both), 1.5), shape=shape), b.reshape(b.sin(both), shape=shape)


@pytest.mark.parametrize("constant", [True, False])
def test_rotary_embedding_is_recognised(constant):
    b = Builder()
    x = b.input("x", "f32", (B, H, S, D))
    if constant:
        table = np.tile(np.random.default_rng(0).normal(size=(S, D // 2)), 2).astype("f4")
        tables = b.constant(np.cos(table)), b.constant(np.sin(table))
    else:
        tables = angles(b, S, D)
    graph = b.finish({"y": rotated(b, x, *tables)})
    after = recognised(graph)
    assert ops(after).count("rotary") == 1 and "neg" not in ops(after)
    same(graph, after)


def test_what_only_looks_like_rotary_is_left_alone():
    b = Builder()
    x = b.input("x", "f32", (B, H, S, D))
    unequal = b.finish({"y": rotated(b, x, *angles(b, S, D, other=b.neg))})
    b = Builder()
    x = b.input("x", "f32", (B, H, S, D))
    swapped = b.finish({"y": rotated(b, x, *angles(b, S, D), swapped=True)})
    for graph in (unequal, swapped):
        assert "rotary" not in ops(recognised(graph))


def start():
    b = Builder()
    return b, b.input("x", "f32", (2, 4, 6))


def mean(b: Builder, x):
    return b.div(b.reduce(x, function="add", axes=(2,), keepdims=True), 6.0)


def tanh_gelu(b, x):
    cube = b.mul(b.mul(b.mul(x, x), x), 0.044715)
    inner = b.tanh(b.mul(b.add(x, cube), math.sqrt(2 / math.pi)))
    return b.mul(b.mul(x, 0.5), b.add(inner, 1.0))


def factored_gelu(b, x):
    """The same with x outside of the brackets."""
    square = b.add(b.mul(b.mul(x, x), 0.044715), 1.0)
    inner = b.tanh(b.mul(b.mul(x, math.sqrt(2 / math.pi)), square))
    return b.mul(b.mul(b.add(inner, 1.0), 0.5), x)


def root(b, x, epsilon=1e-5):
    return b.sqrt(b.add(mean(b, b.mul(x, x)), epsilon))


def norm_by_rsqrt(b, x):
    d = b.sub(x, mean(b, x))
    return b.mul(d, b.rsqrt(b.add(mean(b, b.mul(d, d)), 1e-5)))


def norm_by_reciprocal(b, x):
    d = b.sub(x, mean(b, x))
    return b.mul(b.reciprocal(root(b, d)), d)


def whole_norm(b, x):
    scaled = b.mul(norm_by_rsqrt(b, x), b.constant(np.arange(6, dtype="f4")))
    return b.add(b.constant(np.ones(6, "f4")), scaled)


PATTERNS = {
    "gelu with tanh": (tanh_gelu, ["gelu"]),
    "gelu with tanh, factored": (factored_gelu, ["gelu"]),
    "layer_norm by rsqrt": (norm_by_rsqrt, ["layer_norm"]),
    "layer_norm by reciprocal": (norm_by_reciprocal, ["layer_norm"]),
    "layer_norm with scale and shift": (whole_norm, ["layer_norm"]),
    "rms_norm": (lambda b, x: b.div(x, root(b, x)), ["rms_norm"]),
    "rms_norm with scale": (
        lambda b, x: b.mul(
            b.constant(np.arange(6, dtype="f4")), b.mul(x, b.div(1.0 * np.ones((), "f4"), root(b, x)))
        ),
        ["rms_norm"],
    ),
    "sigmoid": (lambda b, x: b.reciprocal(b.add(b.exp(b.neg(x)), 1.0)), ["sigmoid"]),
    "silu": (lambda b, x: b.div(x, b.add(b.exp(b.neg(x)), 1.0)), ["sigmoid", "mul"]),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern):
    write, left = PATTERNS[pattern]
    b, x = start()
    graph = b.finish({"y": write(b, x)})
    after = recognised(graph)
    assert ops(after) == left
    same(graph, after)


LOOKALIKES = {
    "another cube": lambda b, x: b.mul(
        b.mul(x, 0.5),
        b.add(b.tanh(b.mul(b.add(x, b.mul(b.mul(b.mul(x, x), x), 0.05)), math.sqrt(2 / math.pi))), 1.0),
    ),
    "a square in place of the cube": lambda b, x: b.mul(
        b.mul(x, 0.5),
        b.add(b.tanh(b.mul(b.add(x, b.mul(b.mul(x, x), 0.044715)), math.sqrt(2 / math.pi))), 1.0),
    ),
    "the mean of something else": lambda b, x: b.div(b.sub(x, mean(b, b.exp(x))), root(b, x)),
    "the root of something else": lambda b, x: b.div(x, root(b, b.exp(x))),
    "two and a power": lambda b, x: b.reciprocal(b.add(b.exp(b.neg(x)), 2.0)),
}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_only_looks_like_a_pattern_is_left_alone(name):
    b, x = start()
    after = recognised(b.finish({"y": LOOKALIKES[name](b, x)}))
    assert not {"gelu", "layer_norm", "rms_norm", "sigmoid"}.intersection(ops(after))
