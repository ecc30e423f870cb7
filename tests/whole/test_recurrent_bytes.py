"""The LSTM whose inputs and states are rounded to 8 bits, against its numpy meaning."""

import numpy as np
import pytest

import tallow
from tallow.builder import Builder

ACTIVATIONS = ("Sigmoid", "Tanh", "Tanh")


def layer(rng, dtype, direction, hidden, inputs=6, per_column=False, peepholes=False, activations=None):
    """A layer with constant weights over symbolic steps and sequences."""
    count = 2 if direction == "bidirectional" else 1
    info, columns = np.iinfo(dtype), (4 * hidden if per_column else 1)

    def codes(*shape):
        return b.constant(rng.integers(info.min, info.max + 1, shape).astype(dtype))

    def zeros():
        return b.constant(rng.integers(info.max // 3, info.max // 2, (count, 1, columns)).astype(dtype))

    def scales():
        return b.constant(rng.uniform(0.002, 0.02, (count, 1, columns)).astype("f4"))

    b = Builder("layer")
    x = b.input("x", "f32", ["steps", "batch", inputs])
    states = [b.input(name, "f32", [count, "batch", hidden]) for name in ("h", "c")]
    lengths = b.broadcast(b.dims(values=(x.shape[0],), shape=()), shape=(x.shape[1],))
    w, r = codes(count, inputs, 4 * hidden), codes(count, hidden, 4 * hidden)
    bias = b.constant(rng.normal(size=(count, 8 * hidden)).astype("f4"))
    extra = [b.constant(rng.normal(size=(count, 3 * hidden)).astype("f4"))] if peepholes else []
    results = b.dynamic_quantize_lstm(
        *(x, w, r, bias, *states, lengths, scales(), zeros(), scales(), zeros(), *extra),
        direction=direction,
        activations=activations or ACTIVATIONS * count,
        alphas=(),
        betas=(),
        clip=0.0,
        input_forget=False,
        whole=True,
    )
    return b.finish(dict(zip(("y", "yh", "yc"), results, strict=True)))


def feed(rng, graph, steps, batch):
    sizes = {"steps": steps, "batch": batch}
    shapes = {v.name: [sizes.get(str(d), d) for d in v.shape] for v in graph.inputs}
    return {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("hidden", [1, 5, 16, 37])
def test_steps_are_kernels(direction, dtype, hidden, rng):
    """Sums are exact; what rounds to the nearest code does so for both, but for rounding of the cell."""
    graph = layer(rng, dtype, direction, hidden, per_column=hidden == 5, peepholes=hidden == 37)
    executables = [tallow.compile(graph, threads=threads) for threads in (1, 2)]
    assert not [s.label for s in executables[0].plan.steps if s.place == "host"]
    for steps, batch in ((1, 1), (4, 3), (3, 1), (0, 2), (3, 0)):
        given = feed(rng, graph, steps, batch)
        want, got = tallow.evaluate(graph, given), [e.run(given) for e in executables]
        for name, expected in want.items():
            assert got[0][name].tobytes() == got[1][name].tobytes()
            np.testing.assert_allclose(got[0][name], expected, 1e-4, 1e-4, err_msg=f"{name} {steps} {batch}")


def test_directions_with_activations_of_their_own(rng):
    activations = (*ACTIVATIONS, "HardSigmoid", "Softsign", "Relu")
    graph = layer(rng, np.int8, "bidirectional", 9, activations=activations)
    given = feed(rng, graph, 5, 2)
    got, want = tallow.compile(graph).run(given), tallow.evaluate(graph, given)
    for name, expected in want.items():
        np.testing.assert_allclose(got[name], expected, 1e-4, 1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_states_that_are_not_finite(value, rng):
    """No scale rounds them: every gate of every sequence of that step is lost."""
    graph = layer(rng, np.int8, "forward", 5)
    given = feed(rng, graph, 2, 2)
    given["h"][0, 1, 3] = value
    got, want = tallow.compile(graph).run(given), tallow.evaluate(graph, given)
    np.testing.assert_array_equal(np.isnan(got["y"]), np.isnan(want["y"]))
    assert np.isnan(got["y"]).all()
