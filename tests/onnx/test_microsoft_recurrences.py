"""Linear attention, causal convolutions, sparse attention and routers of com.microsoft against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx_support import agree, compiled, feed, one_node, results

from tallow.errors import ImportFailed

MS = "com.microsoft"
CLOSE = {"f4": {"rtol": 1e-4, "atol": 1e-5}, "f2": {"rtol": 1e-2, "atol": 1e-2}}


def real(rng, *shape, dtype="f4"):
    return rng.standard_normal(shape).astype(dtype)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(x.dtype)


def refused(folder, op, inputs, said, outputs=1, **attributes):
    with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
        compiled(one_node(op, inputs, outputs, domain=MS, **attributes), folder)


# Linear attention ----------------------------------------------------------------------------------


def attended(rng, batch, steps, heads, keys, values, size=8, depth=6, past=True, wide=False, shared=False):
    """Operands of LinearAttention; decays of each head or of each element, rates of each head or of all."""
    return {
        "q": real(rng, batch, steps, heads * size),
        "k": unit(real(rng, batch, steps, keys, size)).reshape(batch, steps, keys * size),
        "v": real(rng, batch, steps, values * depth),
        "past": real(rng, batch, values, size, depth) if past else None,
        "decay": -rng.uniform(0, 1, (batch, steps, values * (size if wide else 1))).astype("f4"),
        "beta": rng.uniform(0, 1, (batch, steps, 1 if shared else values)).astype("f4"),
    }


@pytest.mark.parametrize("rule", ("linear", "gated", "delta", "gated_delta"))
@pytest.mark.parametrize("heads,keys,values", [(2, 2, 2), (4, 2, 2), (2, 2, 4)])
@pytest.mark.parametrize("past", (True, False))
def test_linear_attention(tmp_path, rng, rule, heads, keys, values, past):
    inputs = attended(rng, 2, 5, heads, keys, values, past=past, wide=past, shared=not past)
    attributes = {"q_num_heads": heads, "kv_num_heads": values, "update_rule": rule}
    agree(one_node("LinearAttention", inputs, 2, domain=MS, **attributes), inputs, tmp_path, **CLOSE["f4"])


@pytest.mark.parametrize("steps", (0, 1, 7))
def test_linear_attention_of_any_length(tmp_path, rng, steps):
    inputs = attended(rng, 1, steps, 2, 2, 2)
    proto = one_node("LinearAttention", inputs, 2, domain=MS, q_num_heads=2, kv_num_heads=2, scale=0.7)
    for port in proto.graph.input:
        if port.name != "past":
            port.type.tensor_type.shape.dim[1].dim_param = "steps"
    if steps:
        agree(proto, inputs, tmp_path, **CLOSE["f4"])
    else:
        y, state = results(proto, inputs, tmp_path)
        assert y.shape == (1, 0, 12)
        np.testing.assert_array_equal(state, inputs["past"])


def packed_tokens(rng, lengths, dtype="f4", heads=2, values=4, size=8, depth=6, wide=False):
    tokens = sum(lengths)
    return {
        "q": real(rng, tokens, heads, size, dtype=dtype),
        "k": unit(real(rng, tokens, heads, size)).astype(dtype),
        "v": real(rng, tokens, values, depth, dtype=dtype),
        "ends": np.cumsum([0, *lengths]).astype("i4"),
        "decay": -rng.uniform(0, 1, (tokens, values, size) if wide else (tokens, values)).astype("f4"),
        "beta": rng.uniform(-1, 1, (tokens, values)).astype("f4"),
        "state": real(rng, len(lengths), values, depth, size),
        "a_log": None,
        "dt_bias": None,
    }


@pytest.mark.parametrize("rule", ("linear", "gated", "delta", "gated_delta"))
@pytest.mark.parametrize("wide", (False, True))
@pytest.mark.parametrize("start", (True, False))
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_gated_delta_net(tmp_path, rng, rule, wide, start, dtype):
    """Sequences of different lengths."""
    inputs = packed_tokens(rng, [3, 1, 5], dtype, wide=wide)
    inputs["state"] = inputs["state"] if start else None
    inputs["decay"] = inputs["decay"] if "gated" in rule else None
    inputs["beta"] = inputs["beta"] if "delta" in rule else None
    proto = one_node("GatedDeltaNet", inputs, 2, domain=MS, update_rule=rule)
    agree(proto, inputs, tmp_path, **CLOSE[dtype])


GATES = {
    "softplus": {"gate_activation": "softplus", "beta_activation": "sigmoid"},
    "sigmoid": {"gate_activation": "sigmoid", "gate_lower_bound": -2.0},
    "unit": {"qk_l2_norm": 1, "scale": 0.3},
}


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("wide", (False, True))
@pytest.mark.parametrize("form", ("ragged", "even", "rank 4", "together"))
def test_gates_and_layouts(tmp_path, rng, gate, wide, form):
    inputs = packed_tokens(rng, [3, 1, 5] if form == "ragged" else [4, 4], wide=wide)
    if gate != "unit":
        inputs["a_log"], inputs["dt_bias"] = real(rng, 4), real(rng, *((4, 8) if wide else (4,)))
    if form != "ragged":
        inputs["ends"] = None
    if form == "rank 4":
        for name in ("q", "k", "v", "decay", "beta"):
            inputs[name] = inputs[name].reshape(2, 4, *inputs[name].shape[1:])
    if form == "together":
        inputs["q"] = np.concatenate([inputs[n].reshape(8, -1) for n in "qkv"], 1)
        inputs["k"] = inputs["v"] = None
    proto = one_node("GatedDeltaNet", inputs, 2, domain=MS, **GATES[gate])
    agree(proto, inputs, tmp_path, **CLOSE["f4"])


@pytest.mark.parametrize("rule", ("linear", "gated_delta"))
@pytest.mark.parametrize("wide", (False, True))
@pytest.mark.parametrize("form", ("ragged", "even"))
@pytest.mark.parametrize("active", (None, 0, 1))
def test_captured_steps(tmp_path, rng, rule, wide, form, active):
    """Some sequences are shorter than what is captured of each."""
    inputs = packed_tokens(rng, [3, 1, 5] if form == "ragged" else [2, 2, 2], wide=wide)
    inputs["ends"] = inputs["ends"] if form == "ragged" else None
    inputs |= dict.fromkeys(("decay", "beta")) if rule == "linear" else {}
    inputs["count"] = np.array([2, 4, 4], "i4")
    inputs["active"] = None if active is None else np.array([active], "i4")
    proto = one_node("GatedDeltaNet", inputs, 3, domain=MS, update_rule=rule, state_update_capacity=4)
    agree(proto, inputs, tmp_path, **CLOSE["f4"])


def test_what_linear_attention_refuses(tmp_path, rng):
    given = attended(rng, 1, 2, 2, 2, 2)
    heads = {"q_num_heads": 2, "kv_num_heads": 2}
    refused(tmp_path, "LinearAttention", given, "state_window", 2, state_window=2, **heads)
    refused(tmp_path, "LinearAttention", given, "update_rule 'new'", 2, update_rule="new", **heads)
    bare = given | {"decay": None, "beta": None}
    refused(tmp_path, "LinearAttention", bare, "without the operand decay and beta", 2, **heads)
    given = packed_tokens(rng, [2, 3])
    refused(tmp_path, "GatedDeltaNet", given, "gate_activation 'relu'", 2, gate_activation="relu")
    refused(tmp_path, "GatedDeltaNet", given, "beta_activation 'relu'", 2, beta_activation="relu")
    refused(tmp_path, "GatedDeltaNet", given, "without the operands a_log", 2, gate_activation="softplus")
    refused(tmp_path, "GatedDeltaNet", given, "capacity 2 without capture_count", 2, state_update_capacity=2)
    refused(
        tmp_path, "GatedDeltaNet", given | {"ends": None, "state": None}, "cu_seqlens or initial_state", 2
    )
    refused(
        tmp_path, "GatedDeltaNet", given | {"k": None, "v": None, "state": None}, "without initial_state", 2
    )
    square = given | {n: given[n][None] for n in ("q", "k", "v", "decay", "beta")}
    refused(tmp_path, "GatedDeltaNet", square, "cu_seqlens for values of rank 4", 2)


# Causal convolutions -------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", (1, 2, 9))
@pytest.mark.parametrize("last", (0, 1))
@pytest.mark.parametrize("dilation", (1, 3))
@pytest.mark.parametrize(
    "past,bias,activation", [(True, True, "silu"), (False, False, "none"), (True, False, "swish")]
)
def test_causal_convolution(tmp_path, rng, steps, last, dilation, past, bias, activation):
    channels, before = 6, 3 * dilation
    inputs = {
        "x": real(rng, 2, steps, 3, 2) if last else real(rng, 2, channels, steps),
        "w": real(rng, channels, 1, 4),
        "b": real(rng, channels) if bias else None,
        "past": (real(rng, 2, before, 3, 2) if last else real(rng, 2, channels, before)) if past else None,
    }
    attributes = {"activation": activation, "dilation": dilation, "channels_last": last}
    proto = one_node("CausalConvWithState", inputs, 2, domain=MS, **attributes)
    proto.graph.input[0].type.tensor_type.shape.dim[1 if last else 2].dim_param = "steps"
    agree(proto, inputs, tmp_path, **CLOSE["f4"])


@pytest.mark.parametrize("dtype", ("f4", "f2"))
@pytest.mark.parametrize("taps,dilation", [(4, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("captured", (False, True))
def test_causal_convolution_of_different_lengths(tmp_path, rng, dtype, taps, dilation, captured):
    lengths = [3, 1, 7]
    inputs = {
        "x": real(rng, 11, 6, dtype=dtype),
        "w": real(rng, 6, 1, taps, dtype=dtype),
        "ends": np.cumsum([0, *lengths]).astype("i4"),
        "b": real(rng, 6, dtype=dtype) if captured else None,
        "past": real(rng, 3, 6, (taps - 1) * dilation, dtype=dtype),
        "count": np.array([2, 5, 0], "i4") if captured else None,
    }
    attributes = {"activation": "silu", "dilation": dilation} | (
        {"state_update_capacity": 3} if captured else {}
    )
    proto = one_node("VarlenCausalConvWithState", inputs, 2 + captured, domain=MS, **attributes)
    agree(proto, inputs, tmp_path, **CLOSE[dtype])


def test_what_causal_convolutions_refuse(tmp_path, rng):
    given = {"x": real(rng, 2, 3, 5), "w": real(rng, 3, 1, 4)}
    refused(tmp_path, "CausalConvWithState", given, "activation 'relu'", 2, activation="relu")
    refused(tmp_path, "CausalConvWithState", given, "ndim or", 2, ndim=2)
    refused(tmp_path, "CausalConvWithState", given, "state_window of", 2, state_window=2)
    refused(tmp_path, "CausalConvWithState", given, "dilation 0", 2, dilation=0)
    ragged = {"x": real(rng, 5, 3), "w": real(rng, 3, 1, 2), "e": np.array([0, 5], "i4"), "b": None}
    ragged["past"] = real(rng, 1, 3, 1)
    op = "VarlenCausalConvWithState"
    refused(tmp_path, op, ragged, "state_update_capacity 2 without", 2, state_update_capacity=2)
    refused(tmp_path, op, ragged | {"c": np.array([1], "i4")}, "state_update_capacity 0 with", 2)
    dynamic = ragged | {"c": None, "delta": real(rng, 5, 2, 3), "mask": real(rng, 5, 1)}
    refused(tmp_path, op, dynamic, "kernel_delta and previous_mask", 2)


# Sparse attention ----------------------------------------------------------------------------------

HEADS, GROUPS, SIZE, BLOCK, BLOCKS = 4, 2, 16, 16, 4
LAYOUTS = np.array(
    [
        [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]],
        [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]],
    ]
)


def listed(layouts):
    """Rows of blocks as places in lists of columns, the shorter list filled up."""
    columns = [np.nonzero(layout)[1] for layout in layouts]
    longest = max(map(len, columns)) + 1
    starts = np.concatenate([np.zeros((len(layouts), 1), int), layouts.sum(2).cumsum(1)], 1)
    filled = [np.pad(c, (0, longest - len(c)), constant_values=-1) for c in columns]
    return starts.astype("i4"), np.stack(filled).astype("i4")


def sparse(rng, steps, total, lengths, packed=False, rotary=False, layouts=LAYOUTS, dtype="f4"):
    batch = len(lengths)
    q, k, v = (real(rng, batch, steps, n * SIZE, dtype=dtype) for n in (HEADS, GROUPS, GROUPS))
    starts, columns = listed(layouts)
    angles = rng.uniform(0, 6, (BLOCK * BLOCKS, SIZE // 2))
    return {
        "q": np.concatenate([q, k, v], 2) if packed else q,
        "k": None if packed else k,
        "v": None if packed else v,
        "past_k": real(rng, batch, GROUPS, BLOCK * BLOCKS, SIZE, dtype=dtype),
        "past_v": real(rng, batch, GROUPS, BLOCK * BLOCKS, SIZE, dtype=dtype),
        "starts": starts,
        "columns": columns,
        "total": np.array([total], "i4"),
        "lengths": np.array(lengths, "i4"),
        "cos": np.cos(angles).astype(dtype) if rotary else None,
        "sin": np.sin(angles).astype(dtype) if rotary else None,
    }


def judged_in_place(proto, inputs):
    """onnxruntime's results; it wants caches and new caches to be the same memory."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    arrays = {n: a.copy() for n, a in feed(proto, inputs).items()}  # whose memory the values are
    given = {n: onnxruntime.OrtValue.ortvalue_from_numpy(a) for n, a in arrays.items()}
    for name, value in given.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_output("y0")
    binding.bind_ortvalue_output("y1", given["past_k"])
    binding.bind_ortvalue_output("y2", given["past_v"])
    session.run_with_iobinding(binding)
    return [value.numpy().copy() for value in binding.get_outputs()]


SPARSE = {
    "prompt": (dict(steps=60, total=60, lengths=[60, 60]), {}),
    "padded prompt": (dict(steps=40, total=40, lengths=[40, 23]), {}),
    "one step": (dict(steps=1, total=50, lengths=[50, 50]), {}),
    "rows apart": (dict(steps=1, total=50, lengths=[50, 20]), {}),
    "packed": (dict(steps=33, total=33, lengths=[33, 33], packed=True), {}),
    "rotary": (dict(steps=1, total=50, lengths=[50, 20], rotary=True), {"do_rotary": 1}),
    "pairs": (dict(steps=20, total=20, lengths=[20], rotary=True), {"do_rotary": 1, "rotary_interleaved": 1}),
    "one layout": (dict(steps=60, total=60, lengths=[60], layouts=LAYOUTS[:1]), {"scale": 0.4}),
    "dense": (dict(steps=60, total=60, lengths=[60], layouts=np.tril(np.ones((1, 4, 4), int))), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_sparse_attention(tmp_path, rng, name, dtype):
    form, attributes = SPARSE[name]
    inputs = sparse(rng, **form, dtype=dtype)
    attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "sparse_block_size": BLOCK} | attributes
    proto = one_node("SparseAttention", inputs, 3, domain=MS, constants=("starts", "columns"), **attributes)
    for port in proto.graph.input:
        if port.name in "qkv":
            port.type.tensor_type.shape.dim[1].dim_param = "steps"
    got = results(proto, inputs, tmp_path)
    for row, last in enumerate(form["lengths"]):
        # Alone: onnxruntime mixes up rows of different lengths.
        steps = last if form["steps"] > 1 else 1
        alone = {
            n: x[row : row + 1, :steps] if n in "qkv" and x is not None else x for n, x in inputs.items()
        }
        alone |= {n: inputs[n][row : row + 1] for n in ("past_k", "past_v")}
        alone |= {"total": np.array([last], "i4"), "lengths": np.array([last], "i4")}
        single = one_node(
            "SparseAttention", alone, 3, domain=MS, constants=("starts", "columns"), **attributes
        )
        want = judged_in_place(single, alone)
        np.testing.assert_allclose(got[0][row, :steps], want[0][0], **CLOSE[dtype])
        for mine, other in zip(got[1:], want[1:], strict=True):
            np.testing.assert_allclose(mine[row, :, :last], other[0, :, :last], **CLOSE[dtype])
            assert mine.shape[1:] == other.shape[1:] and mine.dtype == other.dtype


def test_what_sparse_attention_refuses(tmp_path, rng):
    attributes = {"num_heads": HEADS, "kv_num_heads": GROUPS, "sparse_block_size": BLOCK, "do_rotary": 1}
    given = sparse(rng, 1, 50, [50])
    refused(tmp_path, "SparseAttention", given, "do_rotary without the operands", 3, **attributes)


# Routers -------------------------------------------------------------------------------------------

GROUPED = [
    {"top_k": 2},
    {"top_k": 3, "n_group": 4, "topk_group": 2},
    {"top_k": 2, "n_group": 2, "topk_group": 1, "group_topk": 3, "router_sentinel": -50.0},
    {"top_k": 4, "n_group": 8, "topk_group": 3, "group_topk": 9},
]


@pytest.mark.parametrize("attributes", GROUPED, ids=str)
@pytest.mark.parametrize("dtype", ("f4", "f2"))
def test_group_router(tmp_path, rng, attributes, dtype):
    inputs = {"x": real(rng, 2, 5, 16, dtype=dtype), "bias": 0.3 * real(rng, 16)}
    proto = one_node("MoEGroupRouter", inputs, domain=MS, **attributes)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "steps"
    agree(proto, inputs, tmp_path, **CLOSE[dtype])


@pytest.mark.parametrize("projected", (False, True))
def test_scores_of_a_router(tmp_path, rng, projected):
    inputs = {"x": real(rng, 5, 256 if projected else 16), "bias": real(rng, 16)}
    inputs["w"] = real(rng, 16, 256) / 16 if projected else None
    proto = one_node("MoEGroupRouter", inputs, 3, domain=MS, top_k=2)
    proto.graph.node[0].output[0] = ""
    del proto.graph.output[0]
    shifted, scores = results(proto, inputs, tmp_path)
    logits = inputs["x"].astype("f8") @ (inputs["w"].T if projected else np.eye(16))
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)
    np.testing.assert_allclose(shifted, scores + inputs["bias"], rtol=1e-5)


def test_what_routers_refuse(tmp_path, rng):
    inputs = {"x": real(rng, 5, 16), "bias": real(rng, 16)}
    refused(tmp_path, "MoEGroupRouter", inputs, "16 experts in 3 groups", n_group=3, top_k=1)
    refused(tmp_path, "MoEGroupRouter", inputs, "router_probs beside", 3, top_k=1)
