"""Sampling, deformed and folded pictures, pools of regions, caches: against onnxruntime or the reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_support import agree, compiled, feed, one_node

from tallow.errors import ImportFailed


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("aligned", [0, 1])
def test_grids_in_two_dimensions(mode, padding, aligned, rng, tmp_path):
    """Places inside, on the edge and outside; sizes that are symbols."""
    inputs = {"x": rng.standard_normal((2, 3, 5, 4)).astype("f4")}
    inputs["g"] = rng.uniform(-1.4, 1.4, (2, 3, 7, 2)).astype("f4")
    a = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    agree(one_node("GridSample", inputs, free=("x", "g"), **a), inputs, tmp_path, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_grids_in_three_dimensions(mode, padding, rng, tmp_path):
    inputs = {"x": rng.standard_normal((1, 2, 3, 5, 4)).astype("f4")}
    inputs["g"] = rng.uniform(-1.3, 1.3, (1, 2, 3, 4, 3)).astype("f4")
    agree(
        one_node("GridSample", inputs, mode=mode, padding_mode=padding),
        inputs,
        tmp_path,
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("spatial", [(4, 5), (3, 1, 6)])
@pytest.mark.parametrize("known", [False, True])
def test_affine_grids(aligned, spatial, known, rng, tmp_path):
    if aligned and 1 in spatial:
        spatial = (3, 2, 6)  # onnxruntime divides by zero there
    rank = len(spatial)
    inputs = {"t": rng.standard_normal((2, rank, rank + 1)).astype("f4"), "s": np.array([2, 3, *spatial])}
    proto = one_node("AffineGrid", inputs, constants=("s",) * known, align_corners=aligned)
    agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-5)


def deform_by_loops(x, w, offset, mask, stride, pad, parts):
    """Deformable convolution as its definition reads, one tap at a time."""
    n, c, h, v = x.shape
    m, depth, kh, kv = w.shape
    oh, ov = offset.shape[2:]
    out = np.zeros((n, m, oh, ov))
    groups = c // depth

    def at(plane, y, z):
        total = 0.0
        y0, z0 = int(np.floor(y)), int(np.floor(z))
        for yy, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
            for zz, wz in ((z0, 1 - (z - z0)), (z0 + 1, z - z0)):
                if 0 <= yy < h and 0 <= zz < v:
                    total += wy * wz * plane[yy, zz]
        return total

    for b, o, i, j in np.ndindex(n, m, oh, ov):
        group = o // (m // groups)
        for d, r, s in np.ndindex(depth, kh, kv):
            channel = group * depth + d
            part = channel // (c // parts)
            tap = part * kh * kv + r * kv + s
            dy, dz = offset[b, 2 * tap, i, j], offset[b, 2 * tap + 1, i, j]
            value = at(x[b, channel], i * stride - pad + r + dy, j * stride - pad + s + dz)
            out[b, o, i, j] += w[o, d, r, s] * value * mask[b, tap, i, j]
    return out


@pytest.mark.parametrize("groups,parts", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_deformed_convolutions(groups, parts, rng, tmp_path):
    x, w = (
        rng.standard_normal((2, 4, 5, 6)).astype("f4"),
        rng.standard_normal((2, 4 // groups, 3, 2)).astype("f4"),
    )
    oh, ov = (5 + 2 - 3) // 2 + 1, (6 + 2 - 2) // 2 + 1
    offset = rng.standard_normal((2, parts * 12, oh, ov)).astype("f4")
    mask = rng.uniform(0, 1, (2, parts * 6, oh, ov)).astype("f4")
    bias = rng.standard_normal(2).astype("f4")
    inputs = {"x": x, "w": w, "o": offset, "b": bias, "m": mask}
    a = {
        "strides": [2, 2],
        "pads": [1, 1, 1, 1],
        "group": groups,
        "offset_group": parts,
        "kernel_shape": [3, 2],
    }
    (got,) = compiled(one_node("DeformConv", inputs, **a), tmp_path).run(inputs).values()
    want = deform_by_loops(x, w, offset, mask, 2, 1, parts) + bias[:, None, None]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("known", [False, True])
def test_blocks_folded_into_pictures(known, rng, tmp_path):
    """Strides, pads and dilations that differ by axis."""
    image, block, strides, pads, dilations = (7, 6), (2, 3), (2, 1), (1, 0, 1, 2), (2, 1)
    spans = [(k - 1) * d + 1 for k, d in zip(block, dilations, strict=True)]
    counts = [(s + pads[i] + pads[i + 2] - spans[i]) // strides[i] + 1 for i, s in enumerate(image)]
    x = rng.standard_normal((2, 3 * 6, counts[0] * counts[1])).astype("f4")
    inputs = {"x": x, "i": np.array(image), "b": np.array(block)}
    a = {"strides": strides, "pads": pads, "dilations": dilations}
    agree(one_node("Col2Im", inputs, constants=("i", "b") * known, **a), inputs, tmp_path, rtol=1e-4)


def test_pools_of_regions(rng, tmp_path):
    x = rng.standard_normal((2, 3, 9, 8)).astype("f4")
    rois = np.array([[0, 0, 0, 7, 8], [1, 3.6, 2.2, 5.1, 6.9], [1, 6, 6, 6, 6], [0, -3, 2, 40, 3]], "f4")
    inputs = {"x": x, "r": rois}
    for scale in (1.0, 0.5):
        agree(one_node("MaxRoiPool", inputs, pooled_shape=[3, 2], spatial_scale=scale), inputs, tmp_path)


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("transform", ["half_pixel", "output_half_pixel"])
def test_aligned_regions(ratio, mode, transform, rng, tmp_path):
    """Regions small, large, beyond the edge and turned over; as many samples as each needs, or a number."""
    x = rng.standard_normal((2, 3, 9, 8)).astype("f4")
    rois = np.array([[0, 0, 7, 8], [3.6, 2.2, 5.1, 6.9], [6, 6, 6, 6], [-3, 2, 12, 3], [5, 5, 2, 2]], "f4")
    inputs = {"x": x, "r": rois, "b": np.array([0, 1, 1, 0, 1])}
    a = {"sampling_ratio": ratio, "mode": mode, "output_height": 3, "output_width": 2, "spatial_scale": 0.7}
    a["coordinate_transformation_mode"] = transform
    agree(one_node("RoiAlign", inputs, free=("r", "b"), **a), inputs, tmp_path, rtol=1e-4, atol=1e-5)


def test_cut_and_padded_about_the_middle(rng, tmp_path):
    x = rng.standard_normal((5, 4, 3)).astype("f4")
    for axes, target in (([0, 2], [2, 8]), ([-1, 1], [3, 7]), ([1], [1])):
        inputs = {"x": x, "t": np.array(target)}
        for free, constants in (((), ()), (("x",), ("t",)), (("x",), ())):
            proto = one_node("CenterCropPad", inputs, free=free, constants=constants, axes=axes)
            agree(proto, inputs, tmp_path, reference=True)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_caches_written_in_place(mode, rng, tmp_path):
    cache, update = rng.standard_normal((2, 3, 6, 4)), rng.standard_normal((2, 3, 2, 4))
    inputs = {
        "c": cache.astype("f4"),
        "u": update.astype("f4"),
        "w": np.array([1, 4 if mode == "linear" else 5]),
    }
    want = inputs["c"].copy()
    for batch, start in enumerate(inputs["w"]):
        for step in range(2):
            want[batch, :, (start + step) % 6] = inputs["u"][batch, :, step]
    proto = one_node("TensorScatter", inputs, opset=24, free=("c",), mode=mode)
    (got,) = compiled(proto, tmp_path).run(feed(proto, inputs)).values()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("windows", [{}, {"left_window_size": 2, "right_window_size": 1}])
@pytest.mark.parametrize("extra", ["none", "bool", "float", "filled"])
def test_attention_masks(causal, windows, extra, rng, tmp_path):
    """Rows that may look at nothing give zeros; against the reference."""
    q, k, v = (rng.standard_normal((2, 2, s, 4)).astype("f4") for s in (5, 6, 6))
    inputs = {"q": q, "k": k, "v": v, "m": None, "pk": None, "pv": None}
    if extra == "bool":
        inputs["m"] = rng.random((5, 6)) < 0.6
        inputs["m"][1] = False
    elif extra == "float":
        inputs["m"] = rng.standard_normal((2, 1, 5, 6)).astype("f4")
    elif extra == "filled":
        inputs["n"] = np.array([6, 3])
    proto = one_node("Attention", inputs, opset=25, is_causal=causal, **windows)
    agree(proto, inputs, tmp_path, reference=True, rtol=1e-4, atol=1e-5)


SEEDED = [
    ("RandomUniform", {"shape": [3, 4], "low": -1.0, "high": 2.0}),
    ("RandomNormal", {"shape": [3, 4], "mean": 1.0, "scale": 2.0}),
]


@pytest.mark.parametrize("op,attributes", SEEDED)
def test_seeded_draws_are_those_of_the_reference(op, attributes, tmp_path):
    proto = one_node(op, {}, seed=7.0, **attributes)
    first = agree(proto, {}, tmp_path, reference=True)[0]
    again = compiled(proto, tmp_path).run({})["y0"]
    np.testing.assert_array_equal(first, again)
    unseeded = compiled(one_node(op, {}, **attributes), tmp_path)
    assert (unseeded.run({})["y0"] != unseeded.run({})["y0"]).any()


def test_dropout_in_training(rng, tmp_path):
    x = rng.standard_normal((50, 40)).astype("f4")
    inputs = {"x": x, "r": np.array(0.25, "f4"), "t": np.array(True)}
    y, kept = agree(one_node("Dropout", inputs, outputs=2, seed=3), inputs, tmp_path, reference=True)
    assert 0.7 < kept.mean() < 0.8 and np.array_equal(y != 0, kept)
    run = compiled(one_node("Dropout", inputs, outputs=2), tmp_path)
    still, everything = run(x, np.array(0.25, "f4"), np.array(False))
    assert np.array_equal(still, x) and everything.all()


def test_the_first_scan_needs_a_known_batch(tmp_path):
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "e", "t")]
    body = helper.make_graph([helper.make_node("Add", ["s", "e"], ["t"])], "b", ports[:2], ports[2:])
    inputs = {"l": None, "i": np.ones((1, 2), "f4"), "x": np.ones((1, 3, 2), "f4")}
    proto = one_node("Scan", inputs, opset=8, body=body, num_scan_inputs=1)
    (got,) = compiled(proto, tmp_path).run(feed(proto, inputs)).values()
    np.testing.assert_array_equal(got, [[4, 4]])
    with pytest.raises(ImportFailed, match="a batch that is not known to be 1 to 64"):
        compiled(one_node("Scan", inputs, opset=8, free=("i", "x"), body=body, num_scan_inputs=1), tmp_path)
