"""Sequences without padding, and biases and rotations by position: not in onnxruntime's CPU provider, or
against it where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed

MS = "com.microsoft"
HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE


def real(rng, *shape, dtype="f4"):
    return rng.standard_normal(shape).astype(dtype)


# Padding -------------------------------------------------------------------------------------------


def offsets(counts, steps):
    """Places of tokens, then those of padding; and how many tokens are before each sequence."""
    place = np.arange(len(counts) * steps).reshape(len(counts), steps)
    valid = np.arange(steps) < np.array(counts, int).reshape(-1, 1)
    order = np.concatenate([place[valid], place[~valid]]).reshape(place.shape).astype("i4")
    return order, np.concatenate([[0], np.cumsum(counts)]).astype("i4")


@settings(max_examples=12, deadline=None)
@given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=4), dtype=st.sampled_from(("f4", "f2")))
def test_padding_removed_and_restored(tmp_path_factory, counts, dtype):
    rng = np.random.default_rng(sum(counts))
    x, steps, folder = real(rng, len(counts), 5, 3, dtype=dtype), 5, tmp_path_factory.mktemp("padding")
    inputs = {"x": x, "n": np.array(counts, "i4")}
    proto = one_node("RemovePadding", inputs, 4, domain=MS, free=("x",))
    rows, places, ends, longest = results(proto, inputs, folder)
    order, cumulated = offsets(counts, steps)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(ends, cumulated)
    np.testing.assert_array_equal(longest, [max(counts)])
    assert places.dtype == ends.dtype == longest.dtype == np.int32 and rows.dtype == x.dtype
    np.testing.assert_array_equal(rows, x.reshape(-1, 3)[order.reshape(-1)[: sum(counts)]])
    inputs = {"x": rows, "o": order}
    (back,) = results(one_node("RestorePadding", inputs, domain=MS, free=("x", "o")), inputs, folder)
    valid = np.arange(steps) < np.array(counts).reshape(-1, 1)
    np.testing.assert_array_equal(back, np.where(valid[..., None], x, 0))


def attention(q, k, v, bias=0, scale=None):
    """[steps, heads * size] each, of one sequence."""
    q, k, v = (x.reshape(len(x), HEADS, -1).swapaxes(0, 1).astype("f8") for x in (q, k, v))
    scores = q @ k.swapaxes(1, 2) * (scale or 1 / math.sqrt(q.shape[2])) + bias
    shares = np.exp(scores - scores.max(2, keepdims=True))
    return (shares / shares.sum(2, keepdims=True) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def by_sequence(rows, ends, bias, scale=None):
    """Attention of packed queries, keys and values within each sequence."""
    pieces = []
    for i, (start, stop) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        here = 0 if bias is None else bias[min(i, len(bias) - 1), :, : stop - start, : stop - start]
        pieces.append(attention(*(x[start:stop] for x in rows), here, scale))
    return np.concatenate(pieces)


COUNTS = [3, 1, 5]


@pytest.mark.parametrize("bias", (None, 1, 3))
@pytest.mark.parametrize("scale", (None, 0.3))
@pytest.mark.parametrize("sizes", (None, [WIDTH, WIDTH, 6]))
def test_packed_attention(tmp_path, rng, bias, scale, sizes):
    order, ends = offsets(COUNTS, 5)
    widths = sizes or [WIDTH] * 3
    inputs = {
        "x": real(rng, 9, 6),
        "w": real(rng, 6, sum(widths)),
        "b": real(rng, sum(widths)),
        "o": order,
        "e": ends,
        "bias": None if bias is None else real(rng, bias, HEADS, 5, 5),
    }
    attributes = {"num_heads": HEADS} | ({"scale": scale} if scale else {})
    attributes |= {"qkv_hidden_sizes": sizes} if sizes else {}
    proto = one_node("PackedAttention", inputs, domain=MS, free=("x",) if bias else (), **attributes)
    (y,) = results(proto, inputs, tmp_path)
    projected = np.split(inputs["x"] @ inputs["w"] + inputs["b"], np.cumsum(widths)[:2], axis=1)
    np.testing.assert_allclose(y, by_sequence(projected, ends, inputs["bias"], scale), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("together", (False, True))
@pytest.mark.parametrize("bias", (False, True))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_packed_multi_head_attention(tmp_path, rng, together, bias, dtype):
    order, ends = offsets(COUNTS, 5)
    q, k, v = (real(rng, 9, WIDTH, dtype=dtype) for _ in range(3))
    inputs = {
        "q": np.stack([x.reshape(9, HEADS, SIZE) for x in (q, k, v)], 2) if together else q,
        "k": None if together else k,
        "v": None if together else v,
        "b": real(rng, 3 * WIDTH, dtype=dtype) if bias else None,
        "o": order,
        "e": ends,
        "extra": real(rng, 1, 1, 5, 5, dtype=dtype) if bias else None,
    }
    proto = one_node("PackedMultiHeadAttention", inputs, domain=MS, num_heads=HEADS)
    (y,) = results(proto, inputs, tmp_path)
    pieces = np.split(inputs["b"], 3) if bias else [0, 0, 0]
    rows = [x.astype("f8") + piece for x, piece in zip((q, k, v), pieces, strict=True)]
    close = 1e-4 if dtype == "f4" else 1e-2
    np.testing.assert_allclose(y, by_sequence(rows, ends, inputs["extra"]), rtol=close, atol=close)
    assert y.dtype == q.dtype


# A decoder's attention -----------------------------------------------------------------------------


@pytest.mark.parametrize("static", (False, True))
@pytest.mark.parametrize("past", (False, True))
@pytest.mark.parametrize("masked", (False, True))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_decoder_attention(tmp_path, rng, static, past, masked, dtype):
    steps, batch, others, cached = 3, 2, 4, 5
    total = {(0, 0): steps, (1, 0): others, (0, 1): cached + steps, (1, 1): cached}[static, past]
    cache = [real(rng, batch, HEADS, cached, SIZE, dtype=dtype) for _ in "kv"]
    mask = np.arange(total) >= np.array([[total - 1], [total]])
    inputs = {
        "q": real(rng, steps, batch, WIDTH, dtype=dtype),
        "k": real(rng, others, batch, WIDTH, dtype=dtype),
        "qw": real(rng, WIDTH, WIDTH, dtype=dtype),
        "kw": real(rng, WIDTH, 2 * WIDTH, dtype=dtype),
        "b": real(rng, 3 * WIDTH, dtype=dtype),
        "mask": mask if masked else None,
        "ck": cache[0] if past else None,
        "cv": cache[1] if past else None,
    }
    flags = {"static": static, "past": past, "state": True, "masked": masked}
    inputs |= {n: np.array([f]) for n, f in flags.items()}
    proto = one_node("DecoderAttention", inputs, 3, domain=MS, constants=tuple(flags), num_heads=HEADS)
    y, new_k, new_v = results(proto, inputs, tmp_path)
    wide = {n: a.astype("f8") for n, a in inputs.items() if a is not None}

    def split(x):
        return x.reshape(len(x), batch, HEADS, SIZE).transpose(1, 2, 0, 3)

    both = wide["k" if static else "q"] @ wide["kw"] + wide["b"][WIDTH:]
    k, v = (split(x) for x in np.split(both, 2, axis=2))
    if past:
        old = (wide["ck"], wide["cv"])
        k, v = old if static else (np.concatenate(pair, axis=2) for pair in zip(old, (k, v), strict=True))
    q = split(wide["q"] @ wide["qw"] + wide["b"][:WIDTH])
    scores = q @ k.swapaxes(2, 3) / math.sqrt(SIZE) - 1e4 * (mask[:, None, None] & masked)
    shares = np.exp(scores - scores.max(3, keepdims=True))
    want = (shares / shares.sum(3, keepdims=True) @ v).transpose(2, 0, 1, 3).reshape(steps, batch, WIDTH)
    close = 1e-4 if dtype == "f4" else 3e-2
    for mine, other in ((y, want), (new_k, k), (new_v, v)):
        assert mine.dtype == dtype
        np.testing.assert_allclose(mine, other, rtol=close, atol=close)


def test_flags_of_decoder_attention(tmp_path, rng):
    shapes = {"q": (3, 2, 8), "k": (4, 2, 8), "qw": (8, 8), "kw": (8, 16), "b": (24,)}
    inputs = {n: real(rng, *s) for n, s in shapes.items()} | dict.fromkeys(("mask", "ck", "cv"))
    inputs |= {n: np.array([True]) for n in ("static", "past", "state", "masked")}
    flags = ("static", "past", "state", "masked")
    for constants, said in (
        (flags, "use_past without key_cache"),
        (flags[:2], "the flag has_layer_state that is"),
    ):
        proto = one_node("DecoderAttention", inputs, domain=MS, constants=constants, num_heads=HEADS)
        with pytest.raises(ImportFailed, match=f'DecoderAttention node "it".*{said}'):
            compiled(proto, tmp_path)


# Windows and global tokens -------------------------------------------------------------------------


@pytest.mark.parametrize("window", (1, 3))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
@pytest.mark.parametrize("free", ((), ("x", "mask", "flags")))
def test_longformer_attention(tmp_path, rng, window, dtype, free):
    batch, steps = 2, 12
    inputs = {
        "x": real(rng, batch, steps, WIDTH, dtype=dtype),
        "w": real(rng, WIDTH, 3 * WIDTH, dtype=dtype),
        "b": real(rng, 3 * WIDTH, dtype=dtype),
        "mask": np.where(np.arange(steps) < [[steps], [9]], 0, -10000).astype(dtype),
        "gw": real(rng, WIDTH, 3 * WIDTH, dtype=dtype),
        "gb": real(rng, 3 * WIDTH, dtype=dtype),
        "flags": np.array([[1] + [0] * 11, [0, 1] + [0] * 5 + [1] + [0] * 4], "i4"),
    }
    proto = one_node("LongformerAttention", inputs, domain=MS, free=free, num_heads=HEADS, window=window)
    (y,) = results(proto, inputs, tmp_path)
    wide = {n: a.astype("f8") for n, a in inputs.items()}
    want = np.zeros(y.shape)
    for row in range(batch):
        local, world = (
            np.split(wide["x"][row] @ wide[w] + wide[b], 3, axis=1) for w, b in (("w", "b"), ("gw", "gb"))
        )
        chosen = inputs["flags"][row] > 0
        for step in range(steps):
            seen = chosen | (np.abs(np.arange(steps) - step) <= window) | chosen[step]
            q, k, v = world if chosen[step] else local
            bias = wide["mask"][row, seen]
            want[row, step] = attention(q[step : step + 1], k[seen], v[seen], bias)[0]
    close = 1e-4 if dtype == "f4" else 2e-2
    np.testing.assert_allclose(y, want, rtol=close, atol=close)
    assert y.dtype == dtype


def test_longformer_attention_without_a_window(tmp_path, rng):
    shapes = {"x": (1, 4, 8), "w": (8, 24), "b": (24,), "m": (1, 4), "gw": (8, 24), "gb": (24,)}
    inputs = {n: real(rng, *s) for n, s in shapes.items()} | {"g": np.zeros((1, 4), "i4")}
    proto = one_node("LongformerAttention", inputs, domain=MS, num_heads=HEADS, window=0)
    with pytest.raises(ImportFailed, match='LongformerAttention node "it".*a window of 0'):
        compiled(proto, tmp_path)


# Positions -----------------------------------------------------------------------------------------


def bucket(distance, count, farthest, both):
    """T5's bucket of a distance between positions (Raffel et al., 2020), as its authors compute it."""
    start = 0
    if both:
        count //= 2
        start = count if distance > 0 else 0
    distance, exact = abs(distance), count // 2
    if distance < exact:
        return start + distance
    share = np.log(np.float32(distance) / np.float32(exact)) / np.log(np.float32(farthest / exact))
    return start + min(exact + int(share * np.float32(count - exact)), count - 1)


@pytest.mark.parametrize("both", (0, 1))
@pytest.mark.parametrize("buckets,farthest", [(32, 128), (8, 20)])
@pytest.mark.parametrize("constant", (True, False))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_relative_position_bias(tmp_path, rng, both, buckets, farthest, constant, dtype):
    length = 140
    inputs = {"t": real(rng, buckets, 3, dtype=dtype), "q": np.array([length]), "k": np.array([length])}
    constants = ("q", "k") if constant else ()
    attributes = {"max_distance": farthest, "is_bidirectional": both}
    proto = one_node("RelativePositionBias", inputs, domain=MS, constants=constants, **attributes)
    (y,) = results(proto, inputs, tmp_path)
    table = inputs["t"].reshape(3, buckets)
    at = [[bucket(c - r, buckets, farthest, both) for c in range(length)] for r in range(length)]
    np.testing.assert_array_equal(y, table[:, np.array(at)][None])


@pytest.mark.parametrize("packed", (False, True))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_gated_relative_position_bias(tmp_path, rng, packed, dtype):
    batch, steps, inner, counts = 3, 5, 6, COUNTS
    order, _ = offsets(counts, steps)
    x = real(rng, batch, steps, WIDTH, dtype=dtype)
    if packed:
        x = np.where((np.arange(steps) < np.array(counts)[:, None])[..., None], x, 0).astype(dtype)
    shapes = {
        "s": (WIDTH,),
        "p": (1, HEADS, steps, steps),
        "w": (SIZE, inner),
        "b": (inner,),
        "e": (1, HEADS, 1, 1),
    }
    inputs = {"x": x.reshape(-1, WIDTH)[order.reshape(-1)[: sum(counts)]] if packed else x}
    inputs |= {n: real(rng, *s, dtype=dtype) for n, s in shapes.items()}
    inputs["o"] = order if packed else None
    proto = one_node("GatedRelativePositionBias", inputs, domain=MS, num_heads=HEADS)
    (y,) = results(proto, inputs, tmp_path)
    s, p, w, b, e = (inputs[n].astype("f8") for n in "spwbe")
    heads = (x + s).reshape(batch, steps, HEADS, SIZE).swapaxes(1, 2)
    gates = (heads @ w + b).reshape(batch, HEADS, steps, 2, inner // 2).sum(-1)
    u, r = np.split(1 / (1 + np.exp(-gates)), 2, axis=-1)
    close = 1e-4 if dtype == "f4" else 2e-2
    np.testing.assert_allclose(y, (u * (r * e - 1) + 2) * p, rtol=close, atol=close)


def rotary_inputs(rng, flat, dtype="f4", half=6, size=16):
    angles = rng.uniform(0, 6, (20, half))
    x = real(rng, 2, 5, 3 * size, dtype=dtype) if flat else real(rng, 2, 3, 5, size, dtype=dtype)
    tables = {"c": np.cos(angles).astype(dtype), "s": np.sin(angles).astype(dtype)}
    return {"x": x, "p": rng.integers(0, 20, (3, 2, 5))} | tables


@pytest.mark.parametrize("layout,sections", [(0, [3, 1, 2]), (0, [6, 0, 0]), (1, [2, 2, 2]), (1, [4, 1, 1])])
@pytest.mark.parametrize("interleaved", (0, 1))
@pytest.mark.parametrize("flat", (True, False))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_multimodal_rotation(tmp_path, rng, layout, sections, interleaved, flat, dtype):
    inputs = rotary_inputs(rng, flat, dtype)
    attributes = {"mrope_section": sections, "mrope_layout": layout, "interleaved": interleaved}
    attributes |= {"rotary_embedding_dim": 12, "num_heads": 3, "scale": 0.5 if flat else 1.0}
    close = 1e-5 if dtype == "f4" else 4e-3
    agree(
        one_node("MRotaryEmbedding", inputs, domain=MS, **attributes),
        inputs,
        tmp_path,
        rtol=close,
        atol=close,
    )


def test_multimodal_rotation_of_whole_heads(tmp_path, rng):
    inputs = rotary_inputs(rng, True, half=8)
    for more in ({}, {"scale": 0.7}, {"is_packed_batching": 1}):
        proto = one_node("MRotaryEmbedding", inputs, domain=MS, mrope_section=[4, 2, 2], num_heads=3, **more)
        agree(proto, inputs, tmp_path)


def test_what_is_refused(tmp_path, rng):
    def refused(op, inputs, said, **attributes):
        with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
            compiled(one_node(op, inputs, domain=MS, **attributes), tmp_path)

    rotary = rotary_inputs(rng, True)
    refused("MRotaryEmbedding", rotary, r"mrope_section \[1, 2\]", mrope_section=[1, 2])
    refused("MRotaryEmbedding", rotary, "add up to 6", mrope_section=[1, 2, 2])
    order, ends = offsets(COUNTS, 5)
    packed = {"q": real(rng, 9, WIDTH), "k": None, "v": None, "b": None, "o": order, "e": ends}
    refused("PackedMultiHeadAttention", packed, r"queries f32\[9, 8\] without keys", num_heads=HEADS)
    table = {"t": real(rng, 8, 3), "q": np.array([4]), "k": np.array([4])}
    proto = one_node("RelativePositionBias", table, domain=MS, free=("t",), max_distance=16)
    with pytest.raises(ImportFailed, match="a number of buckets that is not known"):
        compiled(proto, tmp_path)
