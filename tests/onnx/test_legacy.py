"""Operators that ONNX took back, in models of the opsets that had them, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed


def picture(rng, dtype="f4"):
    return rng.standard_normal((2, 3, 7, 6)).astype(dtype)


ELEMENTWISE = [
    ("Affine", {"alpha": 0.5, "beta": -2.0}),
    ("Affine", {}),
    ("Scale", {"scale": 3.5}),
    ("Scale", {}),
    ("ScaledTanh", {"alpha": 1.5, "beta": 0.5}),
    ("ParametricSoftplus", {"alpha": 1.5, "beta": 40.0}),
    ("ImageScaler", {"scale": 0.5, "bias": [1.0, -2.0, 3.0]}),
    ("ImageScaler", {"bias": [1.0, -2.0, 3.0]}),
    ("Crop", {"border": [1, 2, 0, 3]}),
    ("Crop", {"border": [1, 2, 0, 3], "scale": [4, 3]}),
]


@pytest.mark.parametrize("op,attributes", ELEMENTWISE, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_as_onnxruntime_has_them(tmp_path, rng, op, attributes):
    x = 3 * picture(rng)
    agree(one_node(op, {"x": x}, opset=8, **attributes), {"x": x}, tmp_path)


MEANINGS = {
    "Affine": ({"alpha": 0.5, "beta": -2.0}, lambda x: 0.5 * x - 2),
    "Scale": ({"scale": 3.5}, lambda x: 3.5 * x),
    "ScaledTanh": ({"alpha": 1.5, "beta": 0.5}, lambda x: 1.5 * np.tanh(0.5 * x)),
    "ParametricSoftplus": ({"alpha": 1.5, "beta": 0.5}, lambda x: 1.5 * np.logaddexp(0, 0.5 * x)),
    "ImageScaler": ({"bias": [1.0, -2.0, 3.0]}, lambda x: x + np.array([1, -2, 3.0]).reshape(3, 1, 1)),
    "Crop": ({"border": [1, 2, 0, 3]}, lambda x: x[:, :, 2:-3, 1:]),
}


@pytest.mark.parametrize("op", MEANINGS)
@pytest.mark.parametrize("dtype", ("f2", "f8"))
def test_other_dtypes_and_sizes_that_are_symbols(tmp_path, rng, op, dtype):
    attributes, meaning = MEANINGS[op]
    x = picture(rng, dtype)
    proto = one_node(op, {"x": x}, opset=8, free=("x",), **attributes)
    (y,) = results(proto, {"x": x}, tmp_path)
    assert y.dtype == x.dtype
    tolerance = 4e-3 if dtype == "f2" else 1e-12
    np.testing.assert_allclose(y, meaning(x.astype("f8")), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("axes", (None, [1, -3]))
@pytest.mark.parametrize("constants", (("s", "e", "a"), ()))
@pytest.mark.parametrize("dtype", ("i4", "i8"))
def test_dynamic_slice(tmp_path, rng, axes, constants, dtype):
    inputs = {
        "x": rng.standard_normal((4, 5, 6)).astype("f4"),
        "s": np.array([1, -3], dtype),
        "e": np.array([3, 2**31 - 1], dtype),
        "a": None if axes is None else np.array(axes, dtype),
    }
    constants = [n for n in constants if inputs[n] is not None]
    if axes is None:
        inputs["s"], inputs["e"] = np.array([1, -3, 0], dtype), np.array([3, 99, -1], dtype)
    proto = one_node("DynamicSlice", inputs, opset=8, constants=constants, free=("x",))
    (y,) = results(proto, inputs, tmp_path)
    want = inputs["x"][1:3, -3:, :-1] if axes is None else inputs["x"][-3:, 1:3]
    np.testing.assert_array_equal(y, want)
    if constants:
        agree(one_node("DynamicSlice", inputs, opset=8, constants=constants), inputs, tmp_path)


REFUSED = [
    ("ImageScaler", {"bias": [1.0, 2.0]}, r"2 biases for f32\[2, 3, 7, 6\]"),
    ("ImageScaler", {}, "0 biases"),
    ("Crop", {"border": [1, 2, 3]}, r"border \[1, 2, 3\] and scale None"),
    ("Crop", {"border": [1, 2, 3, 4], "scale": [1]}, r"and scale \[1\]"),
    ("ScaledTanh", {"alpha": 1.0}, "no attribute beta"),
    ("ParametricSoftplus", {}, "no attribute alpha or beta"),
]


@pytest.mark.parametrize("op,attributes,said", REFUSED)
def test_what_is_refused(tmp_path, rng, op, attributes, said):
    proto = one_node(op, {"x": picture(rng)}, opset=8, **attributes)
    with pytest.raises(ImportFailed, match=f'{op} node "it".*{said}'):
        compiled(proto, tmp_path)
