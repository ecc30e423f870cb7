"""What type rules cannot prove is checked when sizes are known: wrong inputs are refused, nothing is read outside."""

from __future__ import annotations

import numpy as np
import pytest

import tallow
from tallow.builder import Builder
from tallow.dim import symbol
from tallow.errors import GraphError, InputError
from tallow.schedule.checks import checks_of


def build(make) -> tallow.graph.Graph:
    b = Builder()
    return b.finish({"y": make(b)})


def given(b: Builder, **shapes):
    values = [b.input(n, "f32", shape) for n, shape in shapes.items()]
    return values if len(values) > 1 else values[0]


def total(b: Builder, x):
    """Everything above is fused into the kernel of the sum."""
    return b.reduce(b.exp(x), function="add", axes=tuple(range(x.rank)), keepdims=False)


def reshaped(b: Builder):
    x, _ = given(b, x=["n"], w=["m"])
    return total(b, b.reshape(x, shape=(symbol("m"), 2)))


def concatenated(b: Builder):
    return b.concat(*given(b, x=["n", "k"], w=["m", "p"]), axis=0)


CONVOLVED = {"strides": (1,), "pads": ((0, 0),), "dilations": (1,), "groups": 1}
# name: (graph, shapes that fit, shapes that do not, what is said)
CASES = {
    "product": (
        lambda b: b.matmul(*given(b, x=["n", "k"], w=["m", "p"])),
        [(2, 3), (3, 4)],
        [(2, 3), (5, 4)],
        "matmul: inner sizes 3 and 5 differ",
    ),
    "sum with a number": (
        lambda b: b.add(*given(b, x=["n"], w=[4])),
        [(1,), (4,)],
        [(3,), (4,)],
        "sizes 3 and 4 do not broadcast",
    ),
    "sum of sizes": (
        lambda b: b.add(*given(b, x=["n"], w=["m"])),
        [(1,), (5,)],
        [(3,), (5,)],
        "sizes 3 and 5 do not broadcast",
    ),
    "fused sum": (
        lambda b: total(b, b.add(*given(b, x=["n"], w=["m"]))),
        [(5,), (1,)],
        [(3,), (50000,)],
        "sizes 3 and 50000 do not broadcast",
    ),
    "reshape": (reshaped, [(6,), (3,)], [(3,), (50000,)], "has 3 elements, shape .50000, 2. has 100000"),
    "concatenation": (concatenated, [(2, 3), (1, 3)], [(2, 3), (2, 5000)], "differ beside axis 0"),
    "choice": (
        lambda b: (lambda x, w, q: b.select(b.gt(x, 0.0), w, q))(*given(b, x=["n"], w=["m"], q=["o"])),
        [(4,), (1,), (4,)],
        [(4,), (2,), (1,)],
        "sizes 4 and 2 do not broadcast",
    ),
    "convolution": (
        lambda b: b.conv(*given(b, x=["n", "c", "h"], w=["m", "d", "e"]), **CONVOLVED),
        [(1, 3, 5), (2, 3, 3)],
        [(1, 3, 5), (2, 4, 3)],
        "3 channels",
    ),
    "small convolution": (
        lambda b: b.conv(*given(b, x=["n", 3, "h"], w=[2, 3, 4]), **CONVOLVED),
        [(1, 3, 4), (2, 3, 4)],
        [(1, 3, 2), (2, 3, 4)],
        "conv: a window of .* does not fit",
    ),
    "slice": (
        lambda b: b.slice(given(b, x=["n"]), starts=(symbol("n") - 10,), steps=(1,), shape=(5,)),
        [(10,)],
        [(3,)],
        "axis 0 of f32.3. has no 5 elements from -7",
    ),
    "broadcast": (
        lambda b: b.broadcast(given(b, x=["n"]), shape=(3, 5)),
        [(5,)],
        [(4,)],
        r"elements that spread to \[3, 5\], got f32\[4\]",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_do_not_fit_are_refused(name, tmp_path):
    make, good, bad, message = CASES[name]
    graph = build(make)
    exe = tallow.compile(graph)
    for shapes, fits in ((good, True), (bad, False), (good, True)):
        arrays = [np.ones(s, "f4") for s in shapes]
        inputs = dict(zip([p.name for p in exe.inputs], arrays, strict=True))
        if fits:
            want = tallow.evaluate(graph, inputs)["y"]
            np.testing.assert_allclose(exe(*arrays), want, rtol=1e-5)
        else:
            for run in (exe, tallow.open(exe.save(tmp_path / "m.tallow"))):
                with pytest.raises(InputError, match=f"the inputs' sizes do not fit: .*{message}"):
                    run(*arrays)
            with pytest.raises((InputError, GraphError)):
                tallow.evaluate(graph, inputs)


def test_the_node_is_named(save_onnx):
    from onnx import helper

    node = helper.make_node("Add", ["x", "w"], ["y"], name="both")
    path = save_onnx([node], [("x", "FLOAT", ["n"]), ("w", "FLOAT", ["m"])], [("y", "FLOAT", ["k"])])
    with pytest.raises(InputError, match='sizes 3 and 2 do not broadcast.*Add node "both" in model.onnx'):
        tallow.compile(path)(np.ones(3, "f4"), np.ones(2, "f4"))


def test_what_is_proven_is_not_checked():
    b = Builder()
    x = b.input("x", "f32", ["batch", "steps", 8])
    h = b.reshape(b.matmul(x, b.constant(np.ones((8, 12), "f4"))), shape=(*x.shape[:2], 3, 4))
    y = b.softmax(b.add(b.transpose(h, permutation=(0, 2, 1, 3)), 1.0), axis=3)
    y = b.concat(y, y, axis=2)
    assert (
        checks_of(
            b.finish(
                {
                    "y": b.slice(
                        y, starts=(0, 0, 0, 1), steps=(1, 1, 2, 1), shape=(*y.shape[:2], x.shape[1], 3)
                    )
                }
            )
        )
        == ()
    )


def test_sizes_inside_a_loop_are_checked():
    b, body = Builder(), Builder("body")
    x, w = b.input("x", "f32", ["n"]), b.input("w", "f32", ["m"])
    body.input("i", "i64", []), body.input("go", "bool", [])
    acc = body.input("acc", "f32", ["n"])
    go = body.constant(np.array(True))
    inner = body.finish([go, body.reshape(body.add(acc, w), shape=(symbol("n"),))])
    start = (b.constant(np.array(3)), b.constant(np.array(True)))
    y = b.emit("loop", *start, x, body=inner, types=(x.type,))
    exe = tallow.compile(b.finish([y]))
    np.testing.assert_array_equal(exe(np.zeros(4, "f4"), np.ones(4, "f4")), 3 * np.ones(4))
    with pytest.raises(InputError, match="do not fit: .*sizes 4 and 5 do not broadcast"):
        exe(np.zeros(4, "f4"), np.ones(5, "f4"))


# Indices that are data ----------------------------------------------------------------------------


def test_indices_outside_take_the_nearest_element():
    b = Builder()
    x, i = b.input("x", "f32", ["m"]), b.input("i", "i64", ["n"])
    graph = b.finish([b.gather(x, i, axis=0)])
    exe, x = tallow.compile(graph), np.arange(5, dtype="f4")
    for index, want in [
        (-5, 0),
        (-1, 4),
        (4, 4),
        (5, 4),
        (-6, 0),
        (10**15, 4),
        (-(10**15), 0),
        (2**63 - 1, 4),
    ]:
        np.testing.assert_array_equal(exe(x, np.array([index])), [want])
    with pytest.raises(GraphError, match=r"expected indices in -5\.\.4, got 5\.\.5"):
        tallow.evaluate(graph, {"x": x, "i": np.array([5])})
    assert exe(np.zeros(0, "f4"), np.full(4000, 3)).shape == (4000,)  # of nothing: anything, but no crash


def test_indices_of_other_gathers_stay_inside():
    b = Builder()
    x, i = b.input("x", "f32", [3, 4]), b.input("i", "i64", [3, 4])
    pairs = b.slice(i, starts=(0, 0), steps=(1, 1), shape=(3, 2))
    graph = b.finish({"e": b.gather_elements(x, i, axis=1), "n": b.gather_nd(x, pairs, batch_dims=0)})
    exe, x = tallow.compile(graph), np.arange(12, dtype="f4").reshape(3, 4)
    for far in (10**12, -(10**12)):
        results = exe.run({"x": x, "i": np.full((3, 4), far)})
        side = -1 if far > 0 else 0
        np.testing.assert_array_equal(results["e"], np.broadcast_to(x[:, [side]], (3, 4)))
        np.testing.assert_array_equal(results["n"], np.full(3, x[side, side]))


def test_indices_have_the_shape_that_their_operator_wants():
    b = Builder()
    x = b.input("x", "f32", [2, 3])
    with pytest.raises(GraphError, match="axis 1 of indices i64.1, 4. is longer than that of f32.2, 3."):
        b.gather_elements(x, b.constant(np.zeros((1, 4), int)), axis=0)
    with pytest.raises(GraphError, match="do not have the 1 batch axes"):
        b.gather_nd(x, b.constant(np.zeros((3, 1), int)), batch_dims=1)
    with pytest.raises(GraphError, match="axis 0 of f32.2, 3. has no 2 elements from 1 in steps of 1"):
        b.slice(x, starts=(1, 0), steps=(1, 1), shape=(2, 3))


def test_memory_that_is_not_there_is_said(monkeypatch):
    b = Builder()
    x = b.input("x", "f32", ["n", 64])
    y = b.matmul(b.exp(b.softmax(b.matmul(x, b.transpose(x, permutation=(1, 0))), axis=1)), x)
    exe = tallow.compile(b.finish({"y": y}))

    def none(size):
        raise MemoryError(f"{size} bytes")

    monkeypatch.setattr(exe._machine.device, "allocate", none)
    with pytest.raises(InputError, match="there is not enough memory to run with n = 100: .* bytes"):
        exe(np.ones((100, 64), "f4"))
