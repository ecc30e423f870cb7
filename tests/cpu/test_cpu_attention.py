"""The attention kernel: right for any mask, size, layout, target and number of threads."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from cpu_support import BACKEND, HOST, Native
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow.builder import Builder
from tallow.compile import open_compiled
from tallow.compiler import compile_graph
from tallow.dtype import f32
from tallow.kernel.build import const
from tallow.kernel.grammar import Buffer, For, Kernel, Load, Store, Var
from tallow.stages import lower, prepare
from tallow_cpu.lowerings.attention_item import choose_blocks
from tallow_cpu.lowerings.decay import decay

TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class Case:
    """Sizes and options of one attention. mask: "float", "bool" or "", of the shape in `masked`, where
    False stands for an axis of size 1."""

    batch: int = 1
    heads: int = 2
    groups: int = 2
    queries: int = 5
    keys: int = 7
    depth: int = 8
    width: int = 8
    mask: str = ""
    masked: tuple[bool, ...] = (True, True, True, True)
    causal: bool = False
    offset: int = 0
    softcap: float = 0.0
    fill: float = -math.inf
    safe: bool = False
    tokens_first: bool = False
    symbolic: bool = False
    dtype: str = "f32"

    def graph(self):
        b = Builder()
        names = {"q": ("b", self.heads, "m", self.depth), "k": ("b", self.groups, "n", self.depth)}
        names["v"] = ("b", self.groups, "n", self.width)
        sizes = {"b": self.batch, "m": self.queries, "n": self.keys}
        operands = []
        for name, dims in names.items():
            shape = [d if self.symbolic else sizes.get(d, d) for d in dims]
            order = (0, 2, 1, 3) if self.tokens_first else (0, 1, 2, 3)
            x = b.input(name, self.dtype, [shape[a] for a in order])
            operands.append(b.transpose(x, permutation=order))
        if self.mask:
            full = (self.batch, self.heads, self.queries, self.keys)[-len(self.masked) :]
            shape = [d if kept else 1 for d, kept in zip(full, self.masked, strict=True)]
            operands.append(b.input("mask", "bool" if self.mask == "bool" else self.dtype, shape))
        y = b.attention(
            *operands,
            scale=self.depth**-0.5,
            causal=self.causal,
            causal_offset=self.offset,
            softcap=self.softcap,
            fill=self.fill,
            safe=self.safe,
        )
        return b.finish({"y": b.transpose(y, permutation=(0, 2, 1, 3)) if self.tokens_first else y})

    def inputs(self, graph, seed=0):
        rng = np.random.default_rng(seed)
        sizes = {"b": self.batch, "m": self.queries, "n": self.keys}
        made = {}
        for value in graph.inputs:
            shape = [d if isinstance(d, int) else sizes[str(d)] for d in value.shape]
            noise = rng.standard_normal(shape)
            if value.name == "mask":
                hidden = rng.random(shape) < 0.4
                noise = ~hidden if self.mask == "bool" else np.where(hidden, -math.inf, noise)
            made[value.name] = noise.astype(value.dtype.numpy)
        return made


def agree(case: Case, inputs=None, device="cpu"):
    graph = case.graph()
    inputs = case.inputs(graph) if inputs is None else inputs
    got = open_compiled(compile_graph(graph, device), 2).run(inputs)["y"]
    want = tallow.evaluate(graph, inputs)["y"]
    assert got.shape == want.shape and got.dtype == want.dtype
    tolerance = TOLERANCE[case.dtype]
    np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=tolerance, atol=tolerance)
    return got


EXAMPLES = {
    "small": Case(),
    "one query": Case(queries=1, keys=200, depth=64, width=64, heads=3, groups=3),
    "one query of symbolic sizes": Case(2, 4, 2, 1, 150, 32, 32, tokens_first=True, symbolic=True),
    "one query and a bias": Case(2, 2, 2, 1, 4500, 12, 20, mask="float", softcap=2.0),
    "one query and a mask": Case(2, 4, 2, 1, 45, mask="bool", masked=(True, True), symbolic=True, safe=True),
    "one causal query": Case(queries=1, keys=90, causal=True, offset=40, symbolic=True),
    "one query before the first key": Case(queries=1, keys=9, causal=True, offset=-3, safe=True),
    "one query without keys": Case(queries=1, keys=0),
    "one query of f64": Case(2, 2, 2, 1, 133, 12, 140, dtype="f64"),
    "one query of f16": Case(2, 2, 2, 1, 133, 12, 12, dtype="f16", mask="float"),
    "an item of one query": Case(queries=33, keys=40, symbolic=True, causal=True),
    "one key": Case(queries=40, keys=1),
    "blocks with remainders": Case(2, 3, 3, 67, 301, 20, 24),
    "whole blocks": Case(queries=64, keys=256, depth=64, width=64, tokens_first=True),
    "grouped heads": Case(2, 6, 2, 35, 40, 16, 16, tokens_first=True),
    "wide values": Case(queries=33, keys=20, depth=3, width=130),
    "symbolic sizes": Case(2, 4, 2, 37, 150, 32, 32, tokens_first=True, symbolic=True),
    "causal": Case(queries=70, keys=70, causal=True),
    "causal after a past": Case(queries=9, keys=140, causal=True, offset=131),
    "rows before the first key": Case(queries=9, keys=9, causal=True, offset=-3),
    "softcap": Case(queries=20, keys=30, softcap=2.0),
    "bias": Case(2, 2, 2, 34, 45, mask="float"),
    "bias of keys": Case(2, 2, 2, 34, 45, mask="float", masked=(True, False, False, True)),
    "bias of queries": Case(2, 2, 2, 34, 45, mask="float", masked=(False, True, True, False)),
    "mask without heads": Case(2, 2, 2, 34, 45, mask="bool", masked=(True, True)),
    "mask with a least number": Case(2, 2, 2, 34, 45, mask="bool", masked=(True, True), fill=-3.4e38),
    "mask of symbolic sizes": Case(2, 2, 2, 34, 45, mask="bool", symbolic=True, causal=True),
    "safe": Case(2, 2, 2, 34, 3, mask="bool", safe=True),
    "no keys": Case(keys=0),
    "no queries": Case(queries=0),
    "f64": Case(2, 2, 2, 21, 133, 12, 12, dtype="f64"),
    "f16": Case(2, 2, 2, 21, 133, 12, 12, dtype="f16", tokens_first=True),
    "bf16": Case(2, 2, 2, 21, 33, 12, 12, dtype="bf16", mask="float"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    agree(EXAMPLES[name])


@pytest.mark.parametrize("arch", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize(
    "name", ["blocks with remainders", "mask of symbolic sizes", "f64", "one query and a mask"]
)
def test_other_processors(arch, name):
    if BACKEND.target(arch).vector_bytes > HOST.vector_bytes:
        pytest.skip("this processor lacks the instructions")
    agree(EXAMPLES[name], device=f"cpu:{arch}")


@settings(deadline=None, max_examples=25)
@given(
    st.builds(
        Case,
        batch=st.integers(1, 2),
        heads=st.sampled_from([2, 4]),
        groups=st.sampled_from([1, 2]),
        queries=st.one_of(st.just(1), st.integers(1, 70)),
        keys=st.integers(1, 150),
        depth=st.integers(1, 40),
        width=st.integers(1, 40),
        mask=st.sampled_from(["", "float", "bool"]),
        masked=st.lists(st.booleans(), min_size=1, max_size=4).map(tuple),
        causal=st.booleans(),
        offset=st.integers(-3, 60),
        softcap=st.sampled_from([0.0, 1.5]),
        safe=st.booleans(),
        tokens_first=st.booleans(),
        symbolic=st.booleans(),
    )
)
def test_any_attention(case):
    agree(case)


@pytest.mark.parametrize("operand", ["q", "k", "v", "mask"])
@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("queries, causal", [(40, False), (40, True), (1, False), (1, True)])
def test_numbers_that_are_not_finite(operand, safe, queries, causal):
    case = Case(2, 2, 2, queries, 150, mask="float", safe=safe, causal=causal, offset=60)
    graph = case.graph()
    inputs = case.inputs(graph)
    rng = np.random.default_rng(1)
    array = inputs[operand]
    special = np.array([np.nan, np.inf, -np.inf], "f4")
    array[rng.random(array.shape) < 0.002] = rng.choice(special)
    array.reshape(-1)[:3] = special
    agree(case, inputs)


def test_a_row_without_a_key_gives_no_number_or_zero():
    for safe in (False, True):
        case = Case(queries=3, mask="bool", masked=(True, True), safe=safe)
        inputs = case.inputs(case.graph())
        inputs["mask"][1] = False
        got = agree(case, inputs)
        assert (got[:, :, 1] == 0).all() if safe else np.isnan(got[:, :, 1]).all()
        assert np.isfinite(got[:, :, 0]).all()


@pytest.mark.parametrize("name", ["blocks with remainders", "grouped heads", "mask of symbolic sizes"])
def test_results_are_the_same_bits_for_any_number_of_threads(name):
    graph = EXAMPLES[name].graph()
    inputs = EXAMPLES[name].inputs(graph)
    results = [tallow.compile(graph, threads=t).run(inputs)["y"].tobytes() for t in (1, 2, 4)]
    assert len(set(results)) == 1


def test_a_head_too_wide_for_scratch_memory_is_written_out():
    case = Case(queries=2, keys=3, depth=600, width=600)
    scheduled = lower(prepare(case.graph(), BACKEND, HOST), BACKEND, HOST)
    assert not [step for step in scheduled.program.steps if "attention" in step.label]
    agree(case)


@pytest.mark.parametrize("arch", ["x86-64", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("width", [1, 16, 31, 64, 80, 128, 512])
@pytest.mark.parametrize("queries", [1, 3, 100])
def test_tiles_fit_the_registers(arch, width, queries):
    target = BACKEND.target(arch)
    registers, lanes = (32 if target.vector_bytes == 64 else 16), max(target.vector_bytes, 16) // 4
    blocks = choose_blocks(queries, 100, width, f32, target)
    assert (blocks.rows + 1) * (blocks.columns // lanes) <= registers
    assert (blocks.queries + 1) * (blocks.panel // lanes) <= registers
    assert blocks.columns % blocks.queries == 0 and blocks.keys % blocks.rows == 0


def test_decay_is_the_exponential_of_what_is_not_positive():
    n = 20000
    x = np.concatenate([-np.logspace(-8, 1.95, n), [0.0, -0.0, -np.inf, np.nan]]).astype("f4")
    source, result, i = Buffer("x", f32), Buffer("y", f32, writable=True), Var("i")
    body, names = [], iter(range(100))
    value = decay(body, lambda hint: f"{hint}{next(names)}", Load(source, i))
    loop = For(i, const(len(x)), (*body, Store(result, i, value)), "vector")
    kernel = Kernel("decay", (source, result), (), (For(Var("g"), const(1), (loop,), "grid"),))
    got = np.empty_like(x)
    Native([kernel])("decay", x, got)
    with np.errstate(all="ignore"):
        want = np.exp(x.astype("f8"))
    normal = want >= 2.0**-126
    np.testing.assert_allclose(got[normal], want[normal], rtol=2.5e-7)
    assert (np.abs(got[~normal & ~np.isnan(want)]) <= 2.0**-126).all()
    assert got[-2] == 0 and np.isnan(got[-1])


def test_bad_operands_are_refused_in_words():
    b = Builder()
    q, k = b.input("q", "f32", [1, 2, 3, 8]), b.input("k", "f32", [1, 2, 4, 6])
    with pytest.raises(tallow.errors.GraphError, match="8 and 6 features .* expected the same number"):
        b.attention(q, k, k, scale=1.0, causal=False)
    mask = b.input("mask", "i64", [3, 4])
    with pytest.raises(tallow.errors.GraphError, match="expected a mask of f32 or bool, got i64"):
        b.attention(q, q, q, mask, scale=1.0, causal=False)
