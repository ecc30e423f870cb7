"""Operators of com.microsoft against onnxruntime, which defines them; 8-bit products in its exact mode."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import tallow
from tallow.errors import ImportFailed

MS = "com.microsoft"


def build(path, op, inputs, outputs, attributes=None, sizes=None, constants=()):
    """A model of one operator: inputs by name (None where left out), sizes by input name (default: fixed)."""
    names = [n if a is not None else "" for n, a in inputs.items()]
    while names and not names[-1]:
        names.pop()
    node = helper.make_node(op, names, outputs, domain=MS, name="it", **(attributes or {}))
    ports, tensors = [], []
    for name, array in inputs.items():
        if array is None:
            continue
        if name in constants:
            tensors.append(onnx.numpy_helper.from_array(array, name))
            continue
        kind = TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)
        ports.append(helper.make_tensor_value_info(name, kind, (sizes or {}).get(name, array.shape)))
    results = [onnx.ValueInfoProto(name=n) for n in outputs if n]
    graph = helper.make_graph([node], "g", ports, results, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path, {p.name: inputs[p.name] for p in ports}


def judged(path, given):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))


def agrees(tmp_path, op, inputs, outputs=("y",), attributes=None, rtol=2e-5, **options):
    """Both runtimes give one result: integers to the last, floats within rtol of the largest value."""
    path, given = build(tmp_path / "m.onnx", op, inputs, list(outputs), attributes, **options)
    results = tallow.compile(path).run(given)
    for name, want in judged(path, given).items():
        got = results[name]
        assert got.shape == want.shape and got.dtype == want.dtype, (name, got.shape, want.shape, got.dtype)
        if want.dtype.kind == "f" and want.size:
            np.testing.assert_allclose(
                got, want, rtol=0, atol=rtol * max(np.abs(want).max(), 1e-3), err_msg=name
            )
        else:
            np.testing.assert_array_equal(got, want, err_msg=name)


def real(rng, *shape):
    return rng.standard_normal(shape).astype("f4")


def codes(rng, dtype, *shape):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def f4(*values):
    return np.array(values[0] if len(values) == 1 else values, "f4")


# Floats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op,operands", [("Gelu", 1), ("FastGelu", 1), ("FastGelu", 2), ("BiasGelu", 2), ("QuickGelu", 1)]
)
def test_activations(tmp_path, rng, op, operands):
    bias = real(rng, 6) if operands == 2 else None
    sizes = {"x": ["n", "s", 6]}
    agrees(
        tmp_path, op, {"x": 3 * real(rng, 2, 5, 6), "b": bias}, sizes=sizes, rtol=1e-4 if "F" in op else 2e-5
    )


@pytest.mark.parametrize("flags", ["", "A", "B", "AB", "batchA", "batchB", "A batchA", "B batchB"])
def test_fused_matmul(tmp_path, rng, flags):
    attributes = {
        f"trans{f.replace('batch', 'Batch')}": 1
        for word in flags.split()
        for f in ([word] if "batch" in word else word)
    }
    a, b = real(rng, 3, 4, 5), real(rng, 3, 5, 6)
    if "batchA" in flags:
        a = a.swapaxes(0, 1)
    if "batchB" in flags:
        b = b.swapaxes(0, 1)
    a = a.swapaxes(1, 2) if attributes.get("transA") and "batchA" not in flags else a
    b = b.swapaxes(1, 2) if attributes.get("transB") and "batchB" not in flags else b
    if attributes.get("transA") and "batchA" in flags:
        a = real(rng, 5, 3, 4)
    if attributes.get("transB") and "batchB" in flags:
        b = real(rng, 6, 3, 5)
    agrees(
        tmp_path,
        "FusedMatMul",
        {"a": np.ascontiguousarray(a), "b": np.ascontiguousarray(b)},
        attributes=attributes | {"alpha": 0.5},
    )


@pytest.mark.parametrize(
    "activation,parameters",
    [
        ("", []),
        ("Relu", []),
        ("Sigmoid", []),
        ("Tanh", []),
        ("LeakyRelu", [0.2]),
        ("Clip", [-0.5, 1.0]),
        ("HardSigmoid", [0.3, 0.4]),
    ],
)
def test_fused_convolution_and_product(tmp_path, rng, activation, parameters):
    named = {"activation": activation} if activation else {}
    conv = named | ({"activation_params": parameters} if parameters else {}) | {"pads": [1, 1, 1, 1]}
    x, w, bias = real(rng, 2, 3, 7, 6), real(rng, 4, 3, 3, 3), real(rng, 4)
    agrees(
        tmp_path, "FusedConv", {"x": x, "w": w, "b": bias}, attributes=conv, sizes={"x": ["n", 3, "h", "w"]}
    )
    if activation in ("", "Relu"):
        agrees(
            tmp_path, "FusedConv", {"x": x, "w": w, "b": bias, "z": real(rng, 2, 4, 7, 6)}, attributes=conv
        )
    if activation not in ("Clip", ""):
        gemm = named | dict(zip(("activation_alpha", "activation_beta"), parameters, strict=False))
        operands = {"a": real(rng, 3, 5), "b": real(rng, 4, 5), "c": real(rng, 4)}
        agrees(tmp_path, "FusedGemm", operands, attributes=gemm | {"transB": 1, "alpha": 0.5})


def test_convolution_with_channels_last(tmp_path, rng):
    """Not in onnxruntime's CPU provider: compared with ONNX's Conv and MaxPool, turned round."""
    x, w, bias = real(rng, 2, 7, 6, 3), real(rng, 4, 3, 3, 3), real(rng, 4)
    path, given = build(
        tmp_path / "m.onnx", "NhwcConv", {"x": x, "w": w, "b": bias}, ["y"], {"strides": [2, 2]}
    )
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2])
    plain = {"x": x.transpose(0, 3, 1, 2), "w": w.transpose(0, 3, 1, 2), "b": bias}
    np.testing.assert_allclose(
        tallow.compile(path)(*given.values()), onnx_eval(node, plain).transpose(0, 2, 3, 1), atol=1e-4
    )
    coded = codes(rng, "u1", 2, 7, 6, 3)
    agrees(tmp_path, "NhwcMaxPool", {"x": coded}, attributes={"kernel_shape": [2, 3], "pads": [1, 0, 0, 1]})


def onnx_eval(node, given):
    ports = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
    ]
    graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name=node.output[0])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return ReferenceEvaluator(model).run(None, given)[0]


@pytest.mark.parametrize(("of_x", "of_scale"), [("f4", "f4"), ("f2", "f4"), ("f4", "f2"), ("f8", "f4")])
def test_simplified_layer_normalization(tmp_path, rng, of_x, of_scale):
    """The result has the dtype of the scale; numpy says what it is, in f64."""
    x, scale = real(rng, 3, 8).astype(of_x), real(rng, 8).astype(of_scale)
    path, given = build(
        tmp_path / "m.onnx",
        "SimplifiedLayerNormalization",
        {"x": x, "scale": scale},
        ["y"],
        {"epsilon": 1e-3},
    )
    y, wide = tallow.compile(path).run(given)["y"], x.astype("f8")
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3) * scale
    assert y.dtype == scale.dtype
    np.testing.assert_allclose(y, want, rtol=1e-3 if of_scale == "f2" else 1e-5)


@pytest.mark.parametrize("shift", (True, False))
@pytest.mark.parametrize("bias", (True, False))
def test_skip_layer_normalization(tmp_path, rng, shift, bias):
    operands = {"x": real(rng, 2, 5, 8), "skip": real(rng, 2, 5, 8), "g": real(rng, 8)}
    extra = real(rng, 8) if bias else None
    outputs = ("y", "", "", "total")
    sizes = {"x": ["n", "s", 8], "skip": ["n", "s", 8]}
    more = {"shift": real(rng, 8) if shift else None, "bias": extra}
    agrees(tmp_path, "SkipLayerNormalization", operands | more, outputs, {"epsilon": 1e-5}, sizes=sizes)
    agrees(tmp_path, "SkipSimplifiedLayerNormalization", operands | {"bias": extra}, outputs, sizes=sizes)


def test_statistics_of_training_are_refused(tmp_path, rng):
    operands = {"x": real(rng, 2, 5, 8), "skip": real(rng, 2, 5, 8), "g": real(rng, 8)}
    path, _ = build(tmp_path / "m.onnx", "SkipLayerNormalization", operands, ["y", "mean"])
    with pytest.raises(ImportFailed, match='SkipLayerNormalization node "it".*the mean and the deviation'):
        tallow.load(path)


@pytest.mark.parametrize("axis,inner,shape", [(3, 1, (5, 6)), (3, 0, (2, 1, 1, 6))])
def test_bias_softmax_and_simplified_norm(tmp_path, rng, axis, inner, shape):
    """BiasSoftmax has no kernel for CPUs in onnxruntime: its meaning in numpy."""
    x, bias = real(rng, 2, 3, 5, 6), real(rng, *shape)
    path, given = build(
        tmp_path / "m.onnx",
        "BiasSoftmax",
        {"x": x, "b": bias},
        ["y"],
        {"axis": axis, "is_inner_broadcast": inner},
    )
    total = np.exp((x + bias).astype("f8"))
    np.testing.assert_allclose(tallow.compile(path)(x, bias), total / total.sum(-1, keepdims=True), rtol=1e-5)


SMALL = {
    "Trilu": lambda r: ({"x": real(r, 2, 4, 5), "k": np.array(1)}, ("y",), {"upper": 0}),
    "Range": lambda r: ({"a": f4(1.5), "b": f4(9.0)}, ("y",), {}),
    "ExpandDims": lambda r: ({"x": real(r, 3, 4), "axis": np.array(-1, "i4")}, ("y",), {}),
    "Unique": lambda r: ({"x": f4(3, 1, 3, 2, 1, 3)}, ("y", "i", "c"), {}),
    "CDist": lambda r: ({"a": real(r, 4, 3), "b": real(r, 5, 3)}, ("y",), {"metric": "euclidean"}),
    "Inverse": lambda r: ({"x": real(r, 2, 4, 4)}, ("y",), {}),
    "Pad": lambda r: ({"x": real(r, 3, 4), "p": np.array([1, 0, 0, 2]), "v": f4(7.0)}, ("y",), {}),
    "GatherND": lambda r: ({"x": real(r, 3, 4, 2), "i": np.array([[0, 1], [2, 3]])}, ("y",), {}),
    "GridSample": lambda r: ({"x": real(r, 1, 2, 5, 6), "g": r.uniform(-1, 1, (1, 3, 4, 2)).astype("f4")}, ("y",), {}),
}  # fmt: skip


@pytest.mark.parametrize("op", SMALL)
def test_small_operators(tmp_path, rng, op):
    inputs, outputs, attributes = SMALL[op](rng)
    agrees(tmp_path, op, inputs, outputs, attributes, constants=("axis", "p"), rtol=1e-4)


@pytest.mark.parametrize("mode", ("bilinear", "nearest"))
@pytest.mark.parametrize("rows", (4, 1))
def test_crop_and_resize(tmp_path, rng, mode, rows):
    inputs = {
        "x": real(rng, 2, 3, 7, 9),
        "regions": f4([[0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], [0.9, -0.3, 0.2, 1.4]]),
        "numbers": np.array([1, 0, 1], "i4"),
        "size": np.array([rows, 5], "i4"),
    }
    sizes = {"x": ["n", 3, "h", "w"], "regions": ["r", 4], "numbers": ["r"]}
    attributes = {"mode": mode, "extrapolation_value": 7.0}
    agrees(tmp_path, "CropAndResize", inputs, attributes=attributes, sizes=sizes, constants=("size",))


@pytest.mark.parametrize("op", ("ComplexMul", "ComplexMulConj"))
def test_complex_products(tmp_path, rng, op):
    """Not in onnxruntime's CPU provider: compared with numpy."""
    a, c = real(rng, 3, 4, 2), real(rng, 4, 2)
    path, _ = build(tmp_path / "m.onnx", op, {"a": a, "c": c}, ["y"])
    other = c.view("c8") if op == "ComplexMul" else c.view("c8").conj()
    np.testing.assert_allclose(
        tallow.compile(path)(a, c), (a.view("c8") * other).view("f4"), rtol=1e-5, atol=1e-6
    )


# Attention -----------------------------------------------------------------------------------------

HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE
MASKS = {
    "none": lambda b, s, t: None,
    "ends": lambda b, s, t: np.array([t - 1, 2], "i4"),
    "ends and starts": lambda b, s, t: np.array([t - 1, t, 0, 1], "i4"),
    "keys": lambda b, s, t: (np.arange(t)[None] < [[t - 1], [2]]).astype("i4"),
    "pairs": lambda b, s, t: (
        (np.arange(t)[None, None] <= np.arange(s)[:, None] + t - s).repeat(b, 0).astype("i4")
    ),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("past", (0, 3))
@pytest.mark.parametrize("causal", (0, 1))
def test_attention(tmp_path, rng, mask, past, causal):
    batch, steps = 2, 4
    if mask.startswith("ends") and past:
        pytest.skip("onnxruntime takes no past with a vector of lengths")
    cache = real(rng, 2, batch, HEADS, past, SIZE) if past else None
    inputs = {
        "x": real(rng, batch, steps, 6),
        "w": real(rng, 6, 3 * WIDTH),
        "b": real(rng, 3 * WIDTH),
        "mask": MASKS[mask](batch, steps, past + steps),
        "past": cache,
        "bias": None if past else real(rng, 1, HEADS, steps, steps),  # onnxruntime takes one of the two
    }
    attributes = {"num_heads": HEADS, "unidirectional": causal}
    outputs = ("y", "present") if past else ("y",)
    sizes = {"x": [batch, "s", 6], "past": [2, batch, HEADS, "p", SIZE], "bias": [1, HEADS, "s", "s"]}
    agrees(tmp_path, "Attention", inputs, outputs, attributes, sizes=sizes if mask == "none" else None)


@pytest.mark.parametrize("mask", ("none", "keys"))
@pytest.mark.parametrize("dtype", ("u1", "i1"))
def test_quantised_attention(tmp_path, rng, mask, dtype):
    inputs = {
        "x": codes(rng, "u1", 2, 4, 6),
        "w": codes(rng, dtype, 6, 3 * WIDTH),
        "b": real(rng, 3 * WIDTH),
        "x_scale": f4(0.01),
        "w_scale": f4(0.02),
        "mask": MASKS[mask](2, 4, 4),
        "x_zero": np.array(100, "u1"),
        "w_zero": np.array(3, dtype),
    }
    agrees(
        tmp_path, "QAttention", inputs, attributes={"num_heads": HEADS}, constants=("w", "w_scale", "w_zero")
    )


FORMS = {
    "apart": lambda r, s, t: (real(r, 2, s, WIDTH), real(r, 2, t, WIDTH), real(r, 2, t, WIDTH), real(r, 3 * WIDTH)),
    "no bias": lambda r, s, t: (real(r, 2, s, WIDTH), real(r, 2, t, WIDTH), real(r, 2, t, WIDTH), None),
    "heads": lambda r, s, t: (real(r, 2, s, WIDTH), real(r, 2, HEADS, t, SIZE), real(r, 2, HEADS, t, SIZE), None),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", (False, True))
def test_multi_head_attention(tmp_path, rng, form, masked):
    steps, keys = 4, 5
    inputs = dict(zip(("q", "k", "v", "b"), FORMS[form](rng, steps, keys), strict=True))
    if masked:
        inputs |= {"mask": MASKS["keys"](2, steps, keys), "bias": real(rng, 1, 1, steps, keys)}
    agrees(tmp_path, "MultiHeadAttention", inputs, attributes={"num_heads": HEADS, "scale": 0.3})


@pytest.mark.parametrize("together", ("qkv", "kv"))
def test_packed_attention(tmp_path, rng, together):
    """onnxruntime's CPU provider takes no packed operands: it judges by the same ones apart."""
    q, k, v = (real(rng, 2, 4, HEADS, SIZE) for _ in range(3))
    packed = (
        {"q": np.stack([q, k, v], 3)}
        if together == "qkv"
        else {"q": q.reshape(2, 4, WIDTH), "k": np.stack([k, v], 3)}
    )
    path, _ = build(tmp_path / "packed.onnx", "MultiHeadAttention", packed, ["y"], {"num_heads": HEADS})
    apart = {n: x.reshape(2, 4, WIDTH) for n, x in zip("qkv", (q, k, v), strict=True)}
    other, _ = build(tmp_path / "apart.onnx", "MultiHeadAttention", apart, ["y"], {"num_heads": HEADS})
    np.testing.assert_allclose(tallow.compile(path)(*packed.values()), judged(other, apart)["y"], atol=1e-5)


@pytest.mark.parametrize("causal", (0, 1))
def test_multi_head_attention_with_a_cache(tmp_path, rng, causal):
    inputs = {
        "q": real(rng, 2, 3, WIDTH),
        "k": real(rng, 2, 3, WIDTH),
        "v": real(rng, 2, 3, WIDTH),
        "b": real(rng, 3 * WIDTH),
        "mask": None,
        "bias": None,
        "past_k": real(rng, 2, HEADS, 4, SIZE),
        "past_v": real(rng, 2, HEADS, 4, SIZE),
    }
    attributes = {"num_heads": HEADS, "unidirectional": causal}
    sizes = {n: [2, "s", WIDTH] for n in "qkv"} | {n: [2, HEADS, "p", SIZE] for n in ("past_k", "past_v")}
    agrees(tmp_path, "MultiHeadAttention", inputs, ("y", "k2", "v2"), attributes, sizes=sizes)


def rotary_tables(rng, length, half):
    angles = rng.uniform(0, 6, (length, half))
    return np.cos(angles).astype("f4"), np.sin(angles).astype("f4")


@pytest.mark.parametrize("interleaved", (0, 1))
@pytest.mark.parametrize("heads_first", (False, True))
@pytest.mark.parametrize("offset", (False, True))
def test_rotary_embedding(tmp_path, rng, interleaved, heads_first, offset):
    cosine, sine = rotary_tables(rng, 12, SIZE // 2)
    x = real(rng, 2, HEADS, 5, SIZE) if heads_first else real(rng, 2, 5, WIDTH)
    places = np.array([3]) if offset else rng.integers(0, 12, (2, 5))
    inputs = {"x": x, "p": places, "c": cosine, "s": sine}
    agrees(tmp_path, "RotaryEmbedding", inputs, attributes={"interleaved": interleaved})


def grouped(rng, batch, steps, past, total, lengths, heads=4, groups=2, packed=False, size=16):
    widths = (heads * size, groups * size, groups * size)
    q, k, v = (real(rng, batch, steps, w) for w in widths)
    cosine, sine = rotary_tables(rng, 32, size // 2)
    return {
        "q": np.concatenate([q, k, v], -1) if packed else q,
        "k": None if packed else k,
        "v": None if packed else v,
        "past_k": real(rng, batch, groups, past, size),
        "past_v": real(rng, batch, groups, past, size),
        "lengths": np.array(lengths, "i4"),
        "total": np.array(total, "i4"),
        "cosine": cosine,
        "sine": sine,
    }


GROUPED = {
    "prompt": (dict(batch=2, steps=5, past=0, total=5, lengths=[4, 4]), {}),
    "padded prompt": (dict(batch=2, steps=5, past=0, total=5, lengths=[4, 2]), {}),
    "one step": (dict(batch=2, steps=1, past=6, total=7, lengths=[6, 6]), {}),
    "rows apart": (dict(batch=2, steps=1, past=6, total=7, lengths=[6, 3]), {}),
    "several steps": (dict(batch=1, steps=3, past=4, total=7, lengths=[6]), {}),
    "packed": (dict(batch=2, steps=5, past=0, total=5, lengths=[4, 4], packed=True), {}),
    "rotary": (dict(batch=2, steps=1, past=6, total=7, lengths=[6, 3]), {"do_rotary": 1}),
    "rotary prompt": (dict(batch=1, steps=5, past=0, total=5, lengths=[4]), {"do_rotary": 1, "rotary_interleaved": 1}),
    "window": (dict(batch=1, steps=5, past=0, total=5, lengths=[4]), {"local_window_size": 2}),
    "window, one step": (dict(batch=1, steps=1, past=6, total=7, lengths=[6]), {"local_window_size": 3}),
    "softcap": (dict(batch=1, steps=5, past=0, total=5, lengths=[4]), {"softcap": 2.0, "scale": 0.5}),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPED)
def test_group_query_attention(tmp_path, rng, name):
    form, attributes = GROUPED[name]
    inputs = grouped(rng, **form)
    sizes = {n: [form["batch"], 2, "p", 16] for n in ("past_k", "past_v")}
    sizes |= {n: [form["batch"], "s", inputs[n].shape[2]] for n in "qkv" if inputs[n] is not None}
    path, given = build(
        tmp_path / "m.onnx", "GroupQueryAttention", inputs, ["y", "k2", "v2"],
        {"num_heads": 4, "kv_num_heads": 2} | attributes, sizes,
    )  # fmt: skip
    results, want = tallow.compile(path).run(given), judged(path, given)
    for row, last in enumerate(form["lengths"]):
        valid = last + 1 if form["steps"] > 1 and form["past"] == 0 else form["steps"]
        np.testing.assert_allclose(results["y"][row, :valid], want["y"][row, :valid], atol=2e-5)
        for cache in ("k2", "v2"):
            np.testing.assert_allclose(
                results[cache][row, :, : last + 1], want[cache][row, :, : last + 1], atol=1e-5
            )
            assert results[cache].shape == want[cache].shape


def test_what_attention_does_not_do_is_refused(tmp_path, rng):
    inputs = grouped(rng, 1, 3, 0, 3, [2])
    attributes = {"num_heads": 4, "kv_num_heads": 2, "smooth_softmax": 1}
    path, _ = build(tmp_path / "m.onnx", "GroupQueryAttention", inputs, ["y", "k2", "v2"], attributes)
    with pytest.raises(ImportFailed, match="smooth_softmax of GroupQueryAttention"):
        tallow.load(path)


@pytest.mark.parametrize("segments", (True, False))
@pytest.mark.parametrize("masked", (True, False))
def test_embedding(tmp_path, rng, segments, masked):
    inputs = {
        "ids": rng.integers(0, 9, (2, 5)).astype("i4"),
        "kinds": rng.integers(0, 2, (2, 5)).astype("i4") if segments else None,
        "words": real(rng, 9, 8),
        "places": real(rng, 6, 8),
        "segments": real(rng, 2, 8) if segments else None,
        "g": real(rng, 8),
        "b": real(rng, 8),
        "mask": np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], "i4") if masked else None,
    }
    agrees(tmp_path, "EmbedLayerNormalization", inputs, ("y", "count", "total"), {"epsilon": 1e-5})


# Quantised -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", (4, 8, 2))
@pytest.mark.parametrize("zeros", (False, True))
@pytest.mark.parametrize("k", (64, 48))
def test_matmul_n_bits(tmp_path, rng, bits, zeros, k):
    n, block = 5, 32
    blocks = -(-k // block)
    inputs = {
        "a": real(rng, 2, 3, k),
        "b": codes(rng, "u1", n, blocks, block * bits // 8),
        "scales": rng.uniform(0.01, 0.1, n * blocks).astype("f4"),
        "zeros": codes(rng, "u1", n * -(-blocks * bits // 8)) if zeros else None,
        "group": None,
        "bias": real(rng, n) if zeros else None,
    }
    attributes = {"N": n, "K": k, "bits": bits, "block_size": block}
    agrees(
        tmp_path, "MatMulNBits", inputs, attributes=attributes, constants=("b", "scales", "zeros"), rtol=1e-4
    )


@pytest.mark.parametrize("zeros", (False, True))
def test_gather_block_quantized(tmp_path, rng, zeros):
    inputs = {
        "data": codes(rng, "u1", 7, 32),
        "indices": rng.integers(0, 7, (2, 3)),
        "scales": rng.uniform(0.01, 0.1, (7, 4)).astype("f4"),
        "zeros": codes(rng, "u1", 7, 2) if zeros else None,
    }
    attributes = {"bits": 4, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    agrees(
        tmp_path, "GatherBlockQuantized", inputs, attributes=attributes, constants=("data", "scales", "zeros")
    )


@pytest.mark.parametrize("dtype", ("i1", "u1"))
@pytest.mark.parametrize("channels", (False, True))
def test_products(tmp_path, rng, dtype, channels):
    n = 7
    scale = rng.uniform(0.001, 0.1, n if channels else ()).astype("f4")
    zero = codes(rng, dtype, n) if channels else codes(rng, dtype)
    w, bias = codes(rng, dtype, 33, n), real(rng, n)
    dynamic = {"x": real(rng, 2, 5, 33), "w": w, "s": scale, "z": zero, "b": bias}
    constants = ("w", "s", "z", "ws", "wz")
    agrees(tmp_path, "DynamicQuantizeMatMul", dynamic, constants=constants)
    stated = {
        "x": codes(rng, "u1", 2, 5, 33), "w": w, "xs": f4(0.02), "ws": scale, "xz": np.array(77, "u1"),
        "wz": zero, "b": bias,
    }  # fmt: skip
    agrees(tmp_path, "MatMulIntegerToFloat", stated, constants=constants)


def test_products_in_half_precision(tmp_path, rng):
    """onnxruntime has no such kernel on processors: numpy says what it is, computed in f32 and rounded once."""
    a, w, bias = codes(rng, "u1", 5, 33), codes(rng, "i1", 33, 7), real(rng, 7).astype("f2")
    inputs = {"a": a, "w": w, "as": np.array(0.02, "f2"), "ws": rng.uniform(0.001, 0.1, 7).astype("f2")}
    path, given = build(
        tmp_path / "m.onnx", "MatMulIntegerToFloat", inputs | {"az": None, "wz": None, "b": bias}, ["y"]
    )
    y = tallow.compile(path).run(given)["y"]
    scale = inputs["as"].astype("f4") * inputs["ws"].astype("f4")
    want = (a.astype("i4") @ w.astype("i4")) * scale + bias.astype("f4")
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, want.astype("f2"), rtol=1e-3)  # a unit in the last place of f16


@pytest.mark.parametrize("coded", (True, False))
@pytest.mark.parametrize("channels", (False, True))
def test_qgemm(tmp_path, rng, coded, channels):
    n = 7
    inputs = {
        "a": codes(rng, "u1", 5, 33),
        "as": f4(0.02),
        "az": np.array(77, "u1"),
        "w": codes(rng, "i1", n, 33),
        "ws": rng.uniform(0.001, 0.1, n if channels else ()).astype("f4"),
        "wz": np.zeros(n if channels else (), "i1"),
        "c": codes(rng, "i2", n).astype("i4"),
        "ys": f4(0.7) if coded else None,
        "yz": np.array(99, "u1") if coded else None,
    }
    agrees(tmp_path, "QGemm", inputs, attributes={"transB": 1}, constants=("w", "ws", "wz"))


@pytest.mark.parametrize("dtype", ("u1", "i1"))
def test_coded_elementwise(tmp_path, rng, dtype):
    x, y = codes(rng, dtype, 2, 3, 4, 5), codes(rng, dtype, 3, 1, 5)
    one, two, out = (
        {"s": f4(s), "z": np.array(z, dtype)} for s, z in ((0.0513, 3), (0.0217, 100), (0.0931, 20))
    )

    def operands(*arrays):
        given = {}
        for number, part in enumerate(arrays):
            given |= {
                f"{number}{k}": v for k, v in (part.items() if isinstance(part, dict) else [("x", part)])
            }
        return given

    for op in ("QLinearAdd", "QLinearMul"):
        agrees(tmp_path, op, operands(x, one, y, two, out))
    agrees(tmp_path, "QLinearSigmoid", operands(x, one, {"s": f4(1 / 256), "z": out["z"]}))
    agrees(tmp_path, "QLinearLeakyRelu", operands(x, one, out), attributes={"alpha": 0.3})
    agrees(tmp_path, "QLinearGlobalAveragePool", operands(x, one, two))
    window = {"kernel_shape": [2, 3], "pads": [1, 1, 0, 1], "strides": [2, 1]}
    agrees(tmp_path, "QLinearAveragePool", operands(x, one, two), attributes=window)
    where = operands(rng.integers(0, 2, (2, 3, 4, 5)).astype(bool), x, one, y, two, out)
    agrees(tmp_path, "QLinearWhere", where, constants=[n for n in where if n[1:] in "sz"])
    given = operands(out, x, one, codes(rng, dtype, 2, 4, 4, 5), two)
    agrees(tmp_path, "QLinearConcat", given, attributes={"axis": 1})
    softmax = operands(x, one, {"s": f4(1 / 256), "z": np.array(0 if dtype == "u1" else -128, dtype)})
    agrees(
        tmp_path,
        "QLinearSoftmax",
        softmax,
        attributes={"opset": 13, "axis": -1},
        constants=[n for n in softmax if n != "0x"],
    )


def test_coded_convolution_with_channels_last(tmp_path, rng):
    inputs = {
        "x": codes(rng, "u1", 1, 7, 6, 3), "xs": f4(0.02), "xz": np.array(9, "u1"),
        "w": codes(rng, "i1", 4, 3, 3, 3), "ws": rng.uniform(0.01, 0.1, 4).astype("f4"), "wz": np.zeros(4, "i1"),
        "ys": f4(0.9), "yz": np.array(3, "u1"), "b": codes(rng, "i2", 4).astype("i4"),
    }  # fmt: skip
    attributes = {"channels_last": 1, "pads": [1, 1, 1, 1]}
    agrees(tmp_path, "QLinearConv", inputs, attributes=attributes, constants=[n for n in inputs if n != "x"])


def test_wide_codes(tmp_path, rng):
    x = 40 * real(rng, 3, 4)
    agrees(tmp_path, "QuantizeLinear", {"x": x, "s": f4(0.01), "z": np.array(30000, "u2")})
    agrees(
        tmp_path, "DequantizeLinear", {"x": codes(rng, "i2", 3, 4), "s": f4(0.01), "z": np.array(-5, "i2")}
    )


@pytest.mark.parametrize("direction", ("forward", "reverse", "bidirectional"))
@pytest.mark.parametrize("channels", (False, True))
@pytest.mark.parametrize("lengths", (None, [6, 2, 4]))
def test_dynamic_quantize_lstm(tmp_path, rng, direction, channels, lengths):
    """One scale for all inputs, one for the states of a step."""
    d, hidden, size, steps, batch = 1 + (direction == "bidirectional"), 5, 4, 6, 3
    shape = (d, 4 * hidden) if channels else (d,)
    inputs = {
        "x": real(rng, steps, batch, size),
        "w": codes(rng, "i1", d, size, 4 * hidden),
        "r": codes(rng, "i1", d, hidden, 4 * hidden),
        "b": real(rng, d, 8 * hidden),
        "lengths": None if lengths is None else np.array(lengths, "i4"),
        "h": real(rng, d, batch, hidden),
        "c": real(rng, d, batch, hidden),
        "p": None,
        "ws": rng.uniform(0.005, 0.02, shape).astype("f4"),
        "wz": np.zeros(shape, "i1"),
        "rs": rng.uniform(0.005, 0.02, shape).astype("f4"),
        "rz": np.zeros(shape, "i1"),
    }
    constants = ("w", "r", "ws", "wz", "rs", "rz")
    attributes = {"direction": direction, "hidden_size": hidden}
    agrees(
        tmp_path, "DynamicQuantizeLSTM", inputs, ("y", "yh", "yc"), attributes, constants=constants, rtol=1e-4
    )
