"""AttnLSTM of com.microsoft against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_support import agree, compiled, one_node, results

from tallow.errors import ImportFailed

MS = "com.microsoft"
STEPS, BATCH, WIDTH, HIDDEN, PLACES, DEPTH, SIZE = 5, 3, 4, 6, 7, 5, 3


def operands(rng, directions=1, layer=None, lengths=None, states=True, peepholes=True, memory_lengths=None):
    def real(*shape):
        return (0.5 * rng.standard_normal(shape)).astype("f4")

    read = DEPTH if layer is None else layer
    return {
        "x": real(STEPS, BATCH, WIDTH),
        "w": real(directions, 4 * HIDDEN, WIDTH + read),
        "r": real(directions, 4 * HIDDEN, HIDDEN),
        "b": real(directions, 8 * HIDDEN) if states else None,
        "lengths": None if lengths is None else np.array(lengths, "i4"),
        "h": real(directions, BATCH, HIDDEN) if states else None,
        "c": real(directions, BATCH, HIDDEN) if states else None,
        "p": real(directions, 3 * HIDDEN) if peepholes else None,
        "qw": real(directions, HIDDEN, SIZE),
        "mw": real(directions, DEPTH, SIZE),
        "v": real(directions, SIZE),
        "m": real(BATCH, PLACES, DEPTH),
        "memory_lengths": None if memory_lengths is None else np.array(memory_lengths, "i4"),
        "aw": None if layer is None else real(directions, DEPTH + HIDDEN, layer),
    }


@pytest.mark.parametrize("direction", ("forward", "reverse", "bidirectional"))
@pytest.mark.parametrize("layer", (None, 4))
@pytest.mark.parametrize("lengths", (None, [5, 2, 4]))
def test_directions(tmp_path, rng, direction, layer, lengths):
    both = 1 + (direction == "bidirectional")
    places = None if lengths is None else [7, 3, 1]
    inputs = operands(rng, both, layer, lengths, memory_lengths=places, states=layer is None)
    proto = one_node("AttnLSTM", inputs, 3, domain=MS, direction=direction, hidden_size=HIDDEN)
    agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "attributes",
    [
        {"clip": 0.3},
        {"input_forget": 1},
        {
            "activations": ["HardSigmoid", "Softsign", "Relu"],
            "activation_alpha": [0.3],
            "activation_beta": [0.4],
        },
    ],
    ids=lambda a: next(iter(a)),
)
@pytest.mark.parametrize("peepholes", (True, False))
def test_options(tmp_path, rng, attributes, peepholes):
    inputs = operands(rng, peepholes=peepholes)
    proto = one_node("AttnLSTM", inputs, 3, domain=MS, hidden_size=HIDDEN, **attributes)
    agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", (0, 1, 6))
def test_sizes_that_are_symbols(tmp_path, rng, steps):
    """In f64, which onnxruntime has not, too: as exact as its floats are."""
    inputs = operands(rng)
    inputs["x"] = rng.standard_normal((steps, BATCH, WIDTH)).astype("f4")
    proto = one_node("AttnLSTM", inputs, 3, domain=MS, hidden_size=HIDDEN)
    for name, axis, size in (("x", 0, "steps"), ("m", 1, "places")):
        port = next(p for p in proto.graph.input if p.name == name)
        port.type.tensor_type.shape.dim[axis].dim_param = size
    if not steps:
        y, h, c = results(proto, inputs, tmp_path)
        assert y.shape == (0, 1, BATCH, HIDDEN)
        np.testing.assert_array_equal(h, inputs["h"])
        np.testing.assert_array_equal(c, inputs["c"])
        return
    single = agree(proto, inputs, tmp_path, rtol=1e-4, atol=1e-5)
    wide = {n: None if a is None else a.astype("f8") for n, a in inputs.items()}
    double = results(one_node("AttnLSTM", wide, 3, domain=MS, hidden_size=HIDDEN), wide, tmp_path)
    for mine, other in zip(double, single, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_what_is_refused(tmp_path, rng):
    inputs = operands(rng) | dict.fromkeys(("mw", "m"))
    with pytest.raises(ImportFailed, match='AttnLSTM node "it".*no operand MW, M'):
        compiled(one_node("AttnLSTM", inputs, 3, domain=MS, hidden_size=HIDDEN), tmp_path)
    unknown = {"activations": ["Sigmoid", "Tanh", "Sine"]}
    with pytest.raises(ImportFailed, match="unknown activation 'Sine'"):
        compiled(one_node("AttnLSTM", operands(rng), 3, domain=MS, hidden_size=HIDDEN, **unknown), tmp_path)
