"""Which device of a list runs which nodes: segments, what moving costs, control flow, sizes, and strict."""

from __future__ import annotations

import numpy as np
import pytest
from placement_support import branching, host_steps, looping, memory_of, placed_steps, places, register

import tallow
from tallow.builder import Builder
from tallow.dim import symbol
from tallow.errors import CompileError, InputError
from tallow.graph import Location

BIG = 1 << 20  # elements of a value that is dear to compute, and dearer to move


def check(graph, run, inputs, exact=True):
    """Results are those of the numpy meaning."""
    wanted, got = tallow.evaluate(graph, inputs), run.run(inputs)
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
        if exact or array.dtype.kind not in "fc":
            np.testing.assert_array_equal(got[name], array)
        else:
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)


def chain(*ops: str, shape=("n", 4)):
    """Operators one after another, each named by its operator and place."""
    b = Builder("chain")
    value = b.input("x", "f32", list(shape))
    for number, op in enumerate(ops):
        b.location = Location(f"{op}{number}")
        value = b.emit(op, value)
    return b.finish({"y": value})


def labels(run) -> list[tuple[str, str]]:
    return [(step.label, step.place) for step in run.plan.steps]


def test_what_the_first_device_runs_stays_there():
    graph = chain("exp", "sin", "tanh")
    run = tallow.compile(graph, [register("one"), register("two", kind="host")])
    assert places(run) == ["one"] and not placed_steps(run)
    assert run.compiled.used == {0} and set(run.devices) == {0}
    check(graph, run, {"x": np.ones((3, 4), np.float32)}, exact=False)


def test_what_it_refuses_goes_to_the_next_with_all_that_is_dear_to_move():
    graph = chain("exp", "sin", "tanh", "neg")
    run = tallow.compile(graph, [register("one", ["sin"]), register("two", kind="host")])
    (step,) = placed_steps(run)
    whys = {moved.op: moved.reason for moved in step.moved}
    assert whys["sin"] == "one: one knows no sin"
    assert whys["exp"] == whys["neg"] == "moving there and back would cost more than it gains"
    check(graph, run, {"x": np.full((3, 4), 0.5, np.float32)}, exact=False)


def dear(b: Builder, x):
    """Work that counts for more than copies of its operand and result."""
    return b.reduce(
        b.exp(b.broadcast(b.reshape(x, shape=(1, *x.shape)), shape=(BIG, *x.shape))),
        function="add",
        axes=(0,),
        keepdims=False,
    )


def test_dear_work_is_worth_the_copies():
    b = Builder()
    x = b.input("x", "f32", [4])
    y = dear(b, b.sin(dear(b, x)))
    graph = b.finish({"y": y})
    run = tallow.compile(graph, [register("one", ["sin"]), register("two", kind="host")])
    assert places(run) == ["one", "two", "one"]
    copies = [(step.label, step.nodes) for step in run.plan.steps if step.place == "copy"]
    assert [kind for kind, _ in copies] == ["upload", "download", "upload", "download"]


def test_no_copies_for_one_cheap_operator_between_refused_ones():
    graph = chain("sin", "neg", "cos")
    run = tallow.compile(graph, [register("one", ["sin", "cos"]), register("two", kind="host")])
    assert places(run) == ["two"] and len(placed_steps(run)) == 1


def test_segments_are_as_few_as_the_order_allows():
    """Two refused nodes that do not depend on each other are one step, though others stand between."""
    b = Builder()
    x, y = b.input("x", "f32", [4]), b.input("y", "f32", [4])
    first = dear(b, b.sin(dear(b, x)))
    second = dear(b, b.sin(dear(b, y)))
    run = tallow.compile(
        b.finish({"a": first, "b": second}), [register("one", ["sin"]), register("two", kind="host")]
    )
    assert places(run) == ["one", "two", "one"] and len(placed_steps(run)) == 1


def test_a_value_comes_down_once_and_weights_go_up_once():
    weights = np.arange(6, dtype=np.float32)
    b = Builder()
    x = b.input("x", "f32", ["n", 6])
    w = b.constant(weights)
    y = b.mul(x, w)
    graph = b.finish({"y": y, "s": b.sin(b.add(y, w)), "c": b.cos(y)})
    one = register("one", ["sin", "cos"])
    moved = memory_of("one").moved
    moved.update(up=0, down=0)
    run = tallow.compile(graph, [one, register("two", ["mul"], kind="host")])
    assert moved == {"up": weights.nbytes, "down": 0}
    x = np.ones((5, 6), np.float32)
    moved.update(up=0, down=0)
    check(graph, run, {"x": x}, exact=False)
    assert moved == {"up": x.nbytes, "down": x.nbytes}
    moved.update(up=0, down=0)
    check(graph, run, {"x": x}, exact=False)
    assert moved == {"up": x.nbytes, "down": x.nbytes}


def test_results_may_stay_on_the_first_device():
    graph = chain("sin", "neg")
    run = tallow.compile(graph, [register("one", ["sin"]), register("two", ["neg"], kind="host")])
    x = np.full((2, 4), 0.5, np.float32)
    kept = run.run({"x": x}, keep="device")["y"]
    assert kept.device is memory_of("one")
    np.testing.assert_allclose(kept.numpy(), -np.sin(x), rtol=1e-6)
    again = run.run({"x": kept}, keep="device")["y"]
    np.testing.assert_allclose(again.numpy(), -np.sin(-np.sin(x)), rtol=1e-6)
    given = run.upload(x)
    np.testing.assert_allclose(run(given), -np.sin(x), rtol=1e-6)
    out = np.empty_like(x)
    assert run(x, out=out) is out


def test_results_of_the_second_device_reach_out_and_the_first():
    graph = chain("neg", "sin")
    run = tallow.compile(graph, [register("one", ["sin"]), register("two", ["neg"])])
    x = np.full((2, 4), 0.5, np.float32)
    out = np.empty_like(x)
    assert run(x, out=out) is out
    np.testing.assert_allclose(out, np.sin(-x), rtol=1e-6)
    kept = run.run({"x": x}, keep="device")["y"]
    assert kept.device is memory_of("one")
    np.testing.assert_allclose(kept.numpy(), out)


@pytest.mark.parametrize(
    "kinds", [("host", "processor"), ("processor", "processor"), ("host", "host"), ("processor", "host")]
)
def test_devices_with_and_without_memory_of_their_own(kinds):
    graph = chain("neg", "sin", "abs", "cos", "neg")
    run = tallow.compile(
        graph, [register("one", ["sin", "cos"], kinds[0]), register("two", ["abs", "neg"], kinds[1])]
    )
    assert places(run) == ["one", "two", "one", "two", "one"]
    for n in (0, 1, 5):
        check(graph, run, {"x": np.linspace(-1, 1, 4 * n, dtype=np.float32).reshape(n, 4)}, exact=False)


def test_three_devices():
    b = Builder()
    x = b.input("x", "f32", ["n"])
    graph = b.finish({"y": b.neg(b.cos(b.sin(b.neg(x))))})
    devices = [
        register("one", ["sin", "cos"]),
        register("two", ["cos", "neg"]),
        register("three", ["sin", "neg"], kind="host"),
    ]
    run = tallow.compile(graph, devices)
    assert places(run) == ["one", "two", "three", "one"]
    assert [moved.reason for step in placed_steps(run) for moved in step.moved] == [
        "one: one knows no sin",
        "one: one knows no cos; two: two knows no cos",
    ]
    check(graph, run, {"x": np.linspace(-1, 1, 5, dtype=np.float32)}, exact=False)


def test_devices_without_a_part_are_not_opened():
    graph = chain("neg", "sin")
    register("two", ["neg"])
    run = tallow.compile(graph, [register("one", ["sin"]), "two", register("three", ["sin", "neg"])])
    assert places(run) == ["one", "two"] and set(run.devices) == {0, 1}
    assert not run.compiled.others[1].code.entries


def test_a_cheap_node_refused_by_the_first_goes_where_copies_are_fewest():
    """Two devices could run it: the one on the host's memory spares an upload."""
    graph = chain("neg", "sin", "neg")
    devices = [register("one", ["sin"]), register("two", ["neg"]), register("three", ["neg"], kind="host")]
    assert places(tallow.compile(graph, devices)) == ["one", "three", "one"]


# Sizes -------------------------------------------------------------------------------------------


def picking():
    """A size that a segment binds, used inside it and after it."""
    b = Builder()
    x = b.input("x", "f32", ["n", 4])
    positive = b.gt(b.reduce(x, function="add", axes=(1,), keepdims=False), 0)
    where = b.nonzero(positive, defines=("found",))
    picked = b.gather(x, b.reshape(where, shape=(where.shape[1],)), axis=0)
    y = b.sin(b.mul(picked, 2.0))
    flat = b.reshape(y, shape=(symbol("found") * 4,))
    return b.finish(
        {"y": b.neg(y), "flat": flat, "top": b.reduce(y, function="max", axes=(0,), keepdims=False)}
    )


@pytest.mark.parametrize("refused", [["gather", "sin"], ["sin"], ["reduce", "gather"], ["gt", "mul", "neg"]])
@pytest.mark.parametrize("kind", ["host", "processor"])
def test_sizes_that_only_the_run_can_tell(refused, kind):
    graph = picking()
    run = tallow.compile(graph, [register("one", refused), register("two", kind=kind)])
    assert placed_steps(run)
    for rows in ([[1, 2, 3, 4], [-1, -1, 0, 0], [0, 0, 0, 1]], [[-1, 0, 0, 0]], []):
        check(graph, run, {"x": np.array(rows, np.float32).reshape(-1, 4)}, exact=False)


def test_a_size_that_a_segment_binds_without_showing_it():
    """The results of the segment have the size in an expression alone."""
    b = Builder()
    x = b.input("x", "f32", ["n"])
    where = b.nonzero(b.gt(x, 0.0), defines=("found",))
    twice = b.concat(where, where, axis=1)
    graph = b.finish({"y": b.neg(b.cast(twice, dtype=tallow.dtype.dtype("f32")))})
    run = tallow.compile(graph, [register("one", ["concat", "gt"]), register("two", kind="host")])
    for x in ([1, -1, 3], [-1], []):
        check(graph, run, {"x": np.array(x, np.float32)})


@pytest.mark.parametrize("kind", ["host", "processor"])
def test_bounds_of_sizes_that_a_segment_implies_hold(kind):
    """A table of 4 places cut to a size and added to so many: more cannot be."""
    b = Builder()
    x = b.input("x", "f32", ["n"])
    where = b.cast(b.nonzero(b.gt(x, 0.0), defines=("found",)), dtype=tallow.dtype.dtype("f32"))
    found = where.shape[1]
    table = b.constant(np.arange(4, dtype="f4"))
    cut = b.slice(table, starts=(0,), steps=(1,), shape=(tallow.dim.minimum(4, found),))
    b.location = Location("places")
    graph = b.finish({"y": b.sin(b.add(b.reshape(where, shape=(found,)), cut))})
    run = tallow.compile(graph, [register("one", ["sin", "add", "slice"]), register("two", kind=kind)])
    for count in (4, 2, 3):
        check(graph, run, {"x": np.ones(count, np.float32)}, exact=False)
    with pytest.raises(InputError):
        tallow.evaluate(graph, {"x": np.ones(6, np.float32)})
    with pytest.raises(InputError, match="found = 6 is outside 0..4|6 and 4 do not broadcast.*places"):
        run(np.ones(6, np.float32))


def test_shape_arithmetic_stays_on_the_host():
    """Integers that become a size: no copy to a device and back."""
    b = Builder()
    x, count = b.input("x", "f32", ["n"]), b.input("count", "i64", [1])
    b.read_dims(b.add(b.mul(count, 2), 1), defines=("wide",))
    y = b.exp(b.broadcast(b.reshape(x, shape=(1, *x.shape)), shape=(symbol("wide"), *x.shape)))
    graph = b.finish({"y": y})
    run = tallow.compile(graph, [register("one"), register("two", kind="host")])
    assert not [s for s in run.plan.steps if s.label == "download" and "i64" in s.reason]
    for n in (0, 2):
        check(graph, run, {"x": np.ones(3, np.float32), "count": np.array([n])}, exact=False)


# Control flow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["host", "processor"])
@pytest.mark.parametrize("refused", [["sin"], ["sin", "exp"], ["mul"], ["neg"]])
def test_branches_are_placed(refused, kind):
    graph = branching()
    run = tallow.compile(graph, [register("one", refused), register("two", kind=kind)])
    assert placed_steps(run) and not host_steps(run)
    for flag in (True, False):
        for n in (0, 3):
            check(
                graph,
                run,
                {"flag": np.asarray(flag), "x": np.linspace(-1, 1, n, dtype=np.float32)},
                exact=False,
            )


@pytest.mark.parametrize(
    "two", [("host", ()), ("processor", ()), ("host", ("add",)), ("processor", ("neg",))]
)
@pytest.mark.parametrize("trips", [None, 4])
def test_loops_are_placed_whole_or_in_parts(two, trips):
    graph = looping(trips)
    run = tallow.compile(graph, [register("one", ["sin"]), register("two", two[1], two[0])])
    inside = [
        step.op for part in placed_steps(run) for step in part.program.steps if hasattr(step, "regions")
    ]
    assert inside == (["loop"] if not two[1] else [])
    for n in (0, 3):
        for count in (0, 1, 3) if trips is None else (4,):
            inputs = {"x": np.linspace(-1, 1, n, dtype=np.float32)}
            inputs |= {"trips": np.asarray(count)} if trips is None else {}
            check(graph, run, inputs, exact=False)


# What no device runs, and strict -----------------------------------------------------------------


def texts():
    b = Builder()
    b.location = Location("join")
    t, x = b.input("t", "string", ["n"]), b.input("x", "f32", ["n"])
    joined = b.string_concat(t, t)
    b.location = Location("wave")
    return b.finish({"t": joined, "y": b.sin(x)})


def test_what_no_device_runs_stays_in_numpy_with_the_reasons_of_all():
    graph = texts()
    run = tallow.compile(graph, [register("one", ["sin"]), register("two", kind="host")])
    (step,) = host_steps(run)
    assert step.reason == "one: no kernels for string[n]; two: no kernels for string[n]"
    inputs = {"t": np.array(["a", "b"], object), "x": np.ones(2, np.float32)}
    got = run.run(inputs)
    assert got["t"].tolist() == ["aa", "bb"]
    np.testing.assert_allclose(got["y"], np.sin(inputs["x"]), rtol=1e-6)


def test_strict_lists_every_node_that_would_leave():
    one, two = register("one", ["sin"]), register("two", kind="host")
    with pytest.raises(CompileError) as caught:
        tallow.compile(texts(), [one, two], strict=True)
    text = str(caught.value)
    assert "2 nodes would leave" in text and "Compile without strict" in text
    assert 'string_concat "join": no kernels for string[n]' in text
    assert 'sin "wave": one knows no sin' in text
    with pytest.raises(CompileError, match='1 node would leave it.*\n.*string_concat "join": no kernels'):
        tallow.compile(texts(), "two", strict=True)


def test_strict_lets_control_flow_and_sizes_be_decided_on_the_host():
    one, two = register("one"), register("two", kind="host")
    for graph in (branching(), looping()):
        assert places(tallow.compile(graph, [one, two], strict=True)) in (
            ["host", "one"],
            ["one", "host", "one"],
        )
    b = Builder()
    count = b.input("count", "i64", [1])
    b.read_dims(count, defines=("wide",))
    graph = b.finish({"y": b.iota(shape=(symbol("wide"),), axis=0, dtype=tallow.dtype.dtype("f32"))})
    assert tallow.compile(graph, one, strict=True)(np.array([3])).tolist() == [0, 1, 2]


def test_strict_looks_into_regions():
    with pytest.raises(CompileError, match="sin .*one knows no sin"):
        tallow.compile(branching(), [register("one", ["sin"]), register("two", kind="host")], strict=True)


# Lists -------------------------------------------------------------------------------------------


def test_a_list_of_one_is_that_device():
    graph = chain("exp")
    alone, listed = (tallow.compile(graph, device) for device in ("cpu", ["cpu"]))
    assert alone.plan == listed.plan and listed.compiled.others == ()


def test_names_with_commas_between_are_a_list():
    register("one", ["sin"])
    register("two", ["exp"], kind="host")
    run = tallow.compile(chain("exp", "sin"), "one, two")
    assert places(run) == ["one", "two"]


@pytest.mark.parametrize("device", [[], "", ["cpu", ""], "cpu,", [3], ["cpu", None]])
def test_what_is_no_list_of_devices(device):
    with pytest.raises(InputError, match="expected a name such as"):
        tallow.compile(chain("exp"), device)


def test_a_device_is_named_once():
    with pytest.raises(InputError, match="names a device twice"):
        tallow.compile(chain("exp"), ["cpu", "cpu"])


def test_an_unknown_device_of_a_list():
    with pytest.raises(tallow.Unavailable, match="there is no backend 'gpu'"):
        tallow.compile(chain("exp"), ["cpu", "gpu"])


def test_two_devices_of_one_backend():
    graph = chain("sin", "neg")
    run = tallow.compile(graph, ["fake:apart", "fake"])
    assert run.compiled.used == {0}
    assert [s.place for s in run.plan.steps if s.place != "copy"] == ["fake#0"]
    check(graph, run, {"x": np.ones((2, 4), np.float32)}, exact=False)
