"""Control flow: what a device decides itself means what onnxruntime and `evaluate` say, and is one native call."""

from __future__ import annotations

import os
import threading

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import tallow
from tallow.builder import Builder
from tallow.dim import symbol
from tallow.dtype import f32, i64
from tallow.errors import InputError
from tallow.graph import TensorType
from tallow.schedule.flow import ROOM
from tallow.schedule.program import ControlStep, FlowStep

F, WHOLE, FLAG = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
ROWS = ("n", 3)


class Drawn:
    """A graph of ONNX nodes over values of shape [n, 3], drawn with regions in it."""

    def __init__(self, draw):
        self.draw, self.count = draw, 0

    def name(self, hint: str) -> str:
        self.count += 1
        return f"{hint}{self.count}"

    def pick(self, *choices):
        return self.draw(st.sampled_from(choices))

    def nodes(self, values: list[str], depth: int) -> list:
        """A few nodes; what they make is appended to `values`."""
        made = []
        for _ in range(self.draw(st.integers(1, 3))):
            kinds = ("add", "tanh", "flip", *(("if", "loop", "scan") if depth else ()))
            made += getattr(self, self.pick(*kinds))(values, depth)
        return made

    def add(self, values, depth):
        values.append(self.name("a"))
        return [helper.make_node("Add", [self.pick(*values[:-1]), self.pick(*values[:-1])], values[-1:])]

    def tanh(self, values, depth):
        values.append(self.name("t"))
        return [helper.make_node("Tanh", [self.pick(*values[:-1])], values[-1:])]

    def flip(self, values, depth):
        wide, name = self.name("f"), self.name("f")
        nodes = [
            helper.make_node("Mul", [self.pick(*values), "minus"], [wide]),
            helper.make_node("Reshape", [wide, "same"], [name]),
        ]
        values.append(name)
        return nodes

    def flag(self, values) -> tuple[list, str]:
        """A condition: an input, or one that data decide."""
        if self.draw(st.booleans()):
            return [], self.pick("yes", "no")
        total, flag = self.name("s"), self.name("c")
        return [
            helper.make_node("ReduceSum", [self.pick(*values)], [total], keepdims=0),
            helper.make_node("Less", [total, "limit"], [flag]),
        ], flag

    def region(self, name, inputs, inner, results, nodes):
        ports = [helper.make_tensor_value_info(r, t, None) for r, t in results]
        return helper.make_graph(nodes, name, inputs, ports)

    def result(self, inner: list[str], values: list[str], nodes: list) -> str:
        """Something made, given, captured or constant; each result of a region has a name of its own."""
        name = self.name("r")
        nodes.append(helper.make_node("Identity", [self.pick(*inner, *values, "weights")], [name]))
        if self.pick("plain", "constant") == "constant":
            full = self.name("w")
            nodes.append(helper.make_node("Add", [name, "weights"], [full]))
            return full
        return name

    def if_(self, values, depth):
        before, flag = self.flag(values)
        branches = {}
        for which in ("then_branch", "else_branch"):
            inner = list(values)
            nodes = self.nodes(inner, depth - 1)
            results = [(self.same_shape(self.result(inner, values, nodes), nodes), F) for _ in range(2)]
            branches[which] = self.region(self.name(which), [], inner, results, nodes)
        names = [self.name("i"), self.name("i")]
        values += names
        return [*before, helper.make_node("If", [flag], names, **branches)]

    def same_shape(self, name: str, nodes: list) -> str:
        """[n, 3], also of a constant that broadcasts."""
        full = self.name("e")
        nodes.append(helper.make_node("Add", [name, "zeros"], [full]))
        return self.pick(full, full) if name.startswith("w") else full

    def loop(self, values, depth):
        number, going, a, b = self.name("it"), self.name("go"), self.name("ca"), self.name("cb")
        inner = [*values, a, b]
        nodes = self.nodes(inner, depth - 1)
        before, again = [], going
        kind = self.pick("endless", "data", "same")
        if kind == "endless":
            again = self.name("g")
            nodes.append(helper.make_node("Identity", ["true"], [again]))
        elif kind == "data":
            more, again = self.flag(inner)
            nodes += more
            if not more:
                nodes.append(helper.make_node("Identity", [again], [copied := self.name("g")]))
                again = copied
        else:
            nodes.append(helper.make_node("Identity", [going], [again := self.name("g")]))
        outs = [(again, FLAG)]
        for _ in range(2):
            kept = self.pick(a, b, "new")
            name = self.name("o")
            source = kept if kept != "new" else self.same_shape(self.result(inner, values, nodes), nodes)
            nodes.append(helper.make_node("Identity", [source], [name]))
            outs.append((name, F))
        scans = self.draw(st.integers(0, 2))
        for _ in range(scans):
            name = self.name("o")
            nodes.append(helper.make_node("Tanh", [self.pick(*inner)], [name]))
            outs.append((name, F))
        inputs = [
            helper.make_tensor_value_info(number, WHOLE, []),
            helper.make_tensor_value_info(going, FLAG, []),
            *(helper.make_tensor_value_info(v, F, ROWS) for v in (a, b)),
        ]
        body = self.region(self.name("body"), inputs, inner, outs, nodes)
        results = [self.name("l") for _ in range(2 + scans)]
        trips = self.pick("trips", "three", "none", "rows")
        start = self.pick("true", "yes", "no")
        given = [trips, start, self.pick(*values), self.pick(*values)]
        made = [*before, helper.make_node("Loop", given, results, body=body)]
        values += results[:2]
        for scan in results[2:]:
            total = self.name("z")
            made.append(helper.make_node("ReduceSum", [scan], [total], keepdims=0))
            made.append(helper.make_node("Add", [total, "zeros"], [values_name := self.name("z")]))
            values.append(values_name)
        return made

    def scan(self, values, depth):
        state, row = self.name("st"), self.name("row")
        inner_state, total = self.name("so"), self.name("sr")
        inner: list[str] = []
        nodes = [
            helper.make_node("Add", [state, row], [inner_state]),
            helper.make_node("Tanh", [inner_state], [total]),
        ]
        inputs = [helper.make_tensor_value_info(v, F, [3]) for v in (state, row)]
        body = self.region(self.name("scan"), inputs, inner, [(inner_state, F), (total, F)], nodes)
        last, rows = self.name("q"), self.name("q")
        direction = self.pick(0, 1)
        node = helper.make_node(
            "Scan", ["start", self.pick(*values)], [last, rows], body=body, num_scan_inputs=1,
            scan_input_directions=[direction],
        )  # fmt: skip
        values.append(rows)
        return [node]


setattr(Drawn, "if", Drawn.if_)


@st.composite
def models(draw):
    drawn = Drawn(draw)
    values = ["x", "y"]
    start = len(values)
    nodes = [
        helper.make_node("Mul", ["x", "nought"], ["zeros"]),
        helper.make_node("Shape", ["x"], ["same"]),
        helper.make_node("Shape", ["x"], ["first_size"], start=0, end=1),
        helper.make_node("Squeeze", ["first_size"], ["rows"]),
    ]
    nodes += drawn.nodes(values, 2)
    made = values[start:]
    constants = {
        "weights": np.array([[0.5, -1, 2]], "f4"),
        "nought": np.array(0, "f4"),
        "minus": np.array(-1, "f4"),
        "limit": np.array(0.25, "f4"),
        "three": np.array(3),
        "none": np.array(0),
        "true": np.array(True),
        "start": np.zeros(3, "f4"),
    }
    inputs = [("x", F, ROWS), ("y", F, ROWS), ("yes", FLAG, []), ("no", FLAG, []), ("trips", WHOLE, [])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(name, F, None) for name in made],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model


def feed_of(rows: int, trips: int, yes: bool, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(rows, 3)).astype("f4"),
        "y": rng.normal(size=(rows, 3)).astype("f4"),
        "yes": np.array(yes),
        "no": np.array(not yes),
        "trips": np.array(trips),
    }


def onnxruntime_of(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@settings(max_examples=30, deadline=None)
@given(
    model=models(),
    rows=st.integers(0, 4),
    trips=st.integers(-1, 4),
    yes=st.booleans(),
    seed=st.integers(0, 9),
)
def test_random_control_flow(model, rows, trips, yes, seed):
    executable = tallow.compile(model.SerializeToString(), format="onnx", threads=1)
    graph = tallow.load(model.SerializeToString(), format="onnx").graph
    session = onnxruntime_of(model)
    names = [p.name for p in session.get_outputs()]
    for feed in (feed_of(rows, trips, yes, seed), feed_of(rows + 1, 2, not yes, seed + 1)):
        meant = tallow.evaluate(graph, feed)
        wanted = meant  # onnxruntime has no scans of no rows
        if feed["x"].size:
            wanted = dict(zip(names, session.run(None, feed), strict=True))
        first, again = executable.run(feed), executable.run(feed)
        for name in names:
            np.testing.assert_allclose(meant[name], wanted[name], rtol=2e-4, atol=2e-4)
            np.testing.assert_allclose(first[name], wanted[name], rtol=2e-4, atol=2e-4)
            np.testing.assert_array_equal(first[name], again[name])


# What stays one native call ---------------------------------------------------------------------


def arms(b: Builder, then, otherwise):
    """The two regions of an `if`, written by functions of a builder."""
    regions = {}
    for name, write in (("then", then), ("otherwise", otherwise)):
        inner = Builder(name, b)
        made = write(inner)
        regions[name] = inner.finish(made if isinstance(made, (list, tuple)) else [made])
    return regions


def body_of(b: Builder, carried, write):
    """The body of a loop over values of these types: `write(builder, iteration, going, *carried)` gives
    the condition and the results."""
    inner = Builder("body", b)
    iteration, going = inner.input("iteration", "i64", []), inner.input("going", "bool", [])
    values = [inner.input(f"c{n}", v.dtype, v.shape) for n, v in enumerate(carried)]
    return inner.finish(list(write(inner, iteration, going, *values)))


def branching(exe) -> bool:
    steps = exe.compiled.program.steps
    return any(isinstance(s, FlowStep) for s in steps) and not any(isinstance(s, ControlStep) for s in steps)


def agree(graph, inputs, **options):
    """Compiled, decided natively, and what `evaluate` says; run twice, since the second run is direct."""
    exe = tallow.compile(graph, "cpu", **options)
    assert branching(exe), exe.plan
    want = tallow.evaluate(graph, inputs)
    for got in (exe.run(inputs), exe.run(inputs)):
        for name, array in want.items():
            assert got[name].dtype == array.dtype and got[name].shape == array.shape
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=1e-6)
    return exe


def either(dtype="f32"):
    b = Builder()
    x, flag = b.input("x", dtype, ["n", 4]), b.input("flag", "bool", [])
    regions = arms(b, lambda c: c.add(x, x), lambda c: c.neg(x))
    return b.finish({"y": b.emit("if", flag, types=(x.type,), **regions)})


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32", "bool", "f16", "u8", "i64"])
def test_branches_of_every_dtype(flag, dtype):
    b = Builder()
    x, y, c = b.input("x", dtype, ["n", 3]), b.input("y", dtype, ["n", 3]), b.input("flag", "bool", [])
    regions = arms(b, lambda i: [i.reshape(x, shape=x.shape), y], lambda i: [y, i.select(i.not_(c), x, y)])
    first, second = b.emit("if", c, types=(x.type, x.type), **regions)
    graph = b.finish({"a": first, "b": second})
    kind = x.dtype.numpy
    for rows in (0, 1, 13):
        values = np.arange(rows * 3).reshape(rows, 3)
        agree(graph, {"x": (values % 2).astype(kind), "y": (values % 3).astype(kind), "flag": np.array(flag)})


def test_a_run_is_one_call_and_is_seen_step_by_step():
    exe = agree(either(), {"x": np.ones((3, 4), "f4"), "flag": np.array(True)})
    assert exe._machine.run_direct([np.ones((3, 4), "f4"), np.array(False)]) is not None
    for flag, label in ((True, "add"), (False, "neg")):
        _, profile = exe.run_observed({"x": np.ones((3, 4), "f4"), "flag": np.array(flag)})
        seen = [s.label for s in profile.steps]
        assert label in seen and not {"add", "neg"} - {label} <= set(seen), seen
        assert all(s.seconds > 0 for s in profile.steps if s.place == "device")
    text = str(exe.plan)
    assert "goes on at step" in text and "if: unless" in text


TRIPS = {
    "known": lambda b, x: (b.constant(np.array(5)), 5),
    "size": lambda b, x: (b.dims(values=(x.shape[0],), shape=()), x.shape[0]),
    "none": lambda b, x: (b.constant(np.array(-2)), 0),
}


def doubling(trips: str, scan: bool, early: bool):
    """A loop that doubles and adds, ends early where it is told, and may keep a row of each iteration."""
    b = Builder()
    x, limit = b.input("x", "f32", ["n", 3]), b.input("limit", "i64", [])
    count, rows = TRIPS[trips](b, x)

    def write(c, iteration, going, value, total):
        kept = c.lt(iteration, limit) if early else c.constant(np.array(True))
        made = [c.add(value, value), c.add(total, value)]
        return [kept, *made, *([c.neg(value)] if scan else [])]

    extra, types = {}, (x.type, x.type)
    if scan:
        extra = {"defines": ("rows",)} if early else {}
        types = (*types, TensorType(x.dtype, (symbol("rows") if early else rows, *x.shape)))
    body = body_of(b, [x, x], write)
    results = b.emit("loop", count, b.constant(np.array(True)), x, x, body=body, types=types, **extra)
    return b.finish({f"y{n}": v for n, v in enumerate(results)})


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("trips", sorted(TRIPS))
def test_loops(scan, early, trips):
    graph = doubling(trips, scan, early)
    for limit in (-1, 0, 2, 100):
        for rows in (0, 1, 4):
            x = np.random.default_rng(rows).normal(size=(rows, 3)).astype("f4")
            agree(graph, {"x": x, "limit": np.array(limit)})


@pytest.mark.parametrize("early", [False, True])
def test_long_loops_of_a_length_that_only_the_run_can_tell(early):
    """Beyond the rows that the device keeps at a stretch; kept rows lie where they belong."""
    b = Builder()
    x, n, limit = b.input("x", "f32", ["n"]), b.input("trips", "i64", []), b.input("limit", "i64", [])

    def write(c, iteration, going, total):
        kept = c.lt(iteration, limit) if early else going
        added = c.add(total, c.cast(iteration, dtype=f32))
        return [kept, added, c.mul(total, 2), iteration]

    body = body_of(b, [x], write)
    types = (x.type, TensorType(x.dtype, (symbol("rows"), *x.shape)), TensorType(i64, (symbol("rows"),)))
    results = b.emit("loop", n, b.constant(np.array(True)), x, body=body, types=types, defines=("rows",))
    graph = b.finish({f"y{number}": result for number, result in enumerate(results)})
    exe = tallow.compile(graph, "cpu")
    assert f"every {ROOM} iterations" in reason_of(exe)
    for trips in (0, 1, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM, *([(1 << 63) - 1] if early else [])):
        for end in (-5, ROOM - 1, ROOM, 5 * ROOM + 3) if early else (0,):
            inputs = {"x": np.arange(3, dtype="f4"), "trips": np.array(trips), "limit": np.array(end)}
            got, want = exe.run(inputs), tallow.evaluate(graph, inputs)
            for name, array in want.items():
                np.testing.assert_array_equal(got[name], array, strict=True)


def test_carried_values_that_change_places():
    """Each takes the other's value as it was before the iteration; one is a row of the other's."""
    b = Builder()
    x, y, n = b.input("x", "f32", ["n"]), b.input("y", "f32", ["n"]), b.input("trips", "i64", [])
    going = b.constant(np.array(True))
    body = body_of(b, [x, y, n], lambda c, i, g, p, q, k: [c.gt(k, i), q, p, i, p])
    types = (x.type, y.type, n.type, TensorType(x.dtype, (symbol("rows"), "n")))
    types = (*types[:3], TensorType(x.dtype, (symbol("rows"), *x.shape)))
    limited = b.min(n, b.constant(np.array(6)))
    results = b.emit("loop", limited, going, x, y, n, body=body, types=types, defines=("rows",))
    graph = b.finish({f"y{k}": v for k, v in enumerate(results)})
    exe = tallow.compile(graph, "cpu")
    for trips in (0, 1, 2, 5):
        inputs = {"x": np.arange(3, dtype="f4"), "y": -np.ones(3, "f4"), "trips": np.array(trips)}
        want = tallow.evaluate(graph, inputs)
        for name, array in exe.run(inputs).items():
            np.testing.assert_array_equal(array, want[name])


def test_results_that_the_host_made_and_constants_are_copied():
    b = Builder()
    x, flag, trips = b.input("x", "f32", [2, 2]), b.input("flag", "bool", []), b.input("trips", "i64", [])
    made, fixed = b.det(x), b.constant(np.array(7, "f4"))
    regions = arms(b, lambda c: [made, fixed], lambda c: [fixed, c.neg(made)])
    first, second = b.emit("if", flag, types=(made.type, made.type), **regions)
    body = body_of(b, [made, fixed], lambda c, i, g, p, q: [g, first, made])
    types = (made.type, fixed.type)
    results = b.emit("loop", trips, flag, made, fixed, body=body, types=types)
    graph = b.finish({"first": first, "second": second, "p": results[0], "q": results[1]})
    for flag in (True, False):
        for trips in (0, 1, 3):
            inputs = {"x": np.diag([2, 3]).astype("f4"), "flag": np.array(flag), "trips": np.array(trips)}
            agree(graph, inputs)


@pytest.mark.parametrize("device", ["cpu", "opencl"])
@pytest.mark.parametrize("kind", ["if", "loop"])
def test_temporaries_that_regions_in_python_hand_on_are_kept(usable, device, kind):
    """Their memory is used again while what they became is still read."""
    b = Builder()
    x, trips = b.input("x", "f32", [8, 64]), b.input("trips", "i64", [])

    def more(c, value):
        return c.add(value, c.det(c.slice(value, starts=(0, 0), steps=(1, 1), shape=(8, 8))))

    made = b.softmax(x, axis=1)
    if kind == "if":
        regions = arms(b, lambda c: [made], lambda c: [more(c, made)])
        result = b.emit("if", b.eq(trips, 0), types=(made.type,), **regions)
    else:
        body = body_of(b, [made], lambda c, i, g, v: [g, more(c, v)])
        result = b.emit("loop", trips, b.scalar(True, "bool"), made, body=body, types=(made.type,))
    most = b.reduce(result, function="max", axes=(0, 1), keepdims=True)
    other = b.softmax(b.softmax(b.softmax(b.add(b.mul(x, 2.0), most), axis=1), axis=0), axis=1)
    graph = b.finish({"y": b.add(result, other)})
    compiled = tallow.compile(graph, usable(device))
    for trips in (0, 1, 2):
        inputs = {"x": np.random.default_rng(0).normal(size=(8, 64)).astype("f4"), "trips": np.array(trips)}
        got, want = compiled.run(inputs)["y"], tallow.evaluate(graph, inputs)["y"]
        np.testing.assert_allclose(got, want, 1e-5, 1e-6)


def test_a_loop_whose_body_cannot_run():
    b = Builder()
    x, trips = b.input("x", "f32", ["n"]), b.input("trips", "i64", [])
    going = b.constant(np.array(True))
    types = (going.type, x.type)
    body = body_of(b, [x], lambda c, i, g, v: c.emit("fail", types=types, message="no such thing"))
    exe = tallow.compile(b.finish({"y": b.emit("loop", trips, going, x, body=body, types=(x.type,))}), "cpu")
    assert branching(exe)
    np.testing.assert_array_equal(exe(np.ones(2, "f4"), np.array(0)), np.ones(2))
    with pytest.raises(InputError, match="this branch cannot run: no such thing"):
        exe(np.ones(2, "f4"), np.array(1))


def nested():
    b = Builder()
    x, flag = b.input("x", "f32", ["n", 16]), b.input("flag", "bool", [])
    outer = x

    def inner_loop(c, value):
        inside = body_of(c, [value], lambda d, i, g, v: [d.constant(np.array(True)), d.tanh(d.add(v, outer))])
        count = c.constant(np.array(3))
        return c.emit("loop", count, c.constant(np.array(True)), value, body=inside, types=(value.type,))

    def write(c, iteration, going, value):
        even = c.eq(c.mod(iteration, c.constant(np.array(2))), c.constant(np.array(0)))
        chosen = c.emit(
            "if", c.and_(even, flag), types=(value.type,),
            **arms(c, lambda d: inner_loop(d, value), lambda d: d.mul(value, outer)),
        )  # fmt: skip
        return [c.constant(np.array(True)), chosen, c.sin(chosen)]

    body = body_of(b, [x], write)
    rows = TensorType(x.dtype, (4, *x.shape))
    going = b.constant(np.array(True))
    last, all_ = b.emit("loop", b.constant(np.array(4)), going, x, body=body, types=(x.type, rows))
    return b.finish({"last": last, "all": all_})


def test_loops_in_branches_in_loops_give_the_same_bits_on_any_threads():
    graph = nested()
    x = np.random.default_rng(0).normal(size=(4000, 16)).astype("f4")
    for flag in (True, False):
        inputs = {"x": x, "flag": np.array(flag)}
        one = agree(graph, inputs, threads=1).run(inputs)
        for threads in (2, 3):
            got = agree(graph, inputs, threads=threads).run(inputs)
            assert all(got[name].tobytes() == one[name].tobytes() for name in one)


def test_several_runs_at_once_share_nothing():
    exe = tallow.compile(nested(), "cpu", threads=2)
    given = [
        {"x": np.random.default_rng(s).normal(size=(50 + s, 16)).astype("f4"), "flag": np.array(s % 2 == 0)}
        for s in range(6)
    ]
    want = [exe.run(inputs) for inputs in given]
    wrong = []

    def work(inputs, expected):
        for _ in range(40):
            got = exe.run(inputs)
            if any(got[name].tobytes() != expected[name].tobytes() for name in expected):
                wrong.append(inputs["x"].shape)

    workers = [threading.Thread(target=work, args=pair) for pair in zip(given, want, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_forked_child_runs_loops():
    exe = tallow.compile(nested(), "cpu", threads=2)
    inputs = {"x": np.ones((4000, 16), "f4"), "flag": np.array(True)}
    want = exe.run(inputs)["last"].tobytes()
    child = os.fork()
    if child == 0:
        os._exit(0 if exe.run(inputs)["last"].tobytes() == want else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_file_keeps_control_flow(tmp_path):
    exe = tallow.compile(nested(), "cpu")
    inputs = {"x": np.ones((5, 16), "f4"), "flag": np.array(True)}
    opened = tallow.open(exe.save(tmp_path / "m.tallow"))
    assert branching(opened)
    np.testing.assert_array_equal(opened.run(inputs)["all"], exe.run(inputs)["all"])


# What stops a run ---------------------------------------------------------------------------------


def guarded():
    """The branch for true adds rows of two inputs, which must then be as many."""
    b = Builder()
    x, y, flag = b.input("x", "f32", ["n"]), b.input("y", "f32", ["m"]), b.input("flag", "bool", [])
    total = lambda c, v: c.reduce(v, function="add", axes=(0,), keepdims=False)  # noqa: E731
    regions = arms(b, lambda c: total(c, c.mul(x, c.reshape(y, shape=x.shape))), lambda c: total(c, x))
    scalar = TensorType(x.dtype, ())
    return b.finish({"y": b.emit("if", flag, types=(scalar,), **regions)})


def test_sizes_are_checked_in_the_branch_that_is_taken_alone():
    exe = agree(guarded(), {"x": np.ones(3, "f4"), "y": np.ones(3, "f4"), "flag": np.array(True)})
    x, y = np.ones(3, "f4"), np.ones(4, "f4")
    for _ in range(2):
        assert exe(x, y, np.array(False)) == 3
        with pytest.raises(InputError, match="sizes do not fit: reshape.*4 elements"):
            exe(x, y, np.array(True))
        with pytest.raises(InputError, match="sizes do not fit"):
            exe.run_observed({"x": x, "y": y, "flag": np.array(True)})
    assert exe(x, x, np.array(True)) == 3


def test_sizes_are_checked_in_the_innermost_branch_that_is_taken():
    b = Builder()
    x, outer, inner = b.input("x", "f32", ["n"]), b.input("outer", "bool", []), b.input("inner", "bool", [])
    scalar = TensorType(x.dtype, ())

    def total(c, v):
        return c.reduce(v, function="add", axes=(0,), keepdims=False)

    def rest(c):
        return total(c, c.slice(x, starts=(3,), steps=(1,), shape=(x.shape[0] - 3,)))

    def nested_if(c):
        return c.emit("if", inner, types=(scalar,), **arms(c, rest, lambda d: total(d, x)))

    regions = arms(b, nested_if, lambda c: c.neg(total(c, x)))
    exe = tallow.compile(b.finish({"y": b.emit("if", outer, types=(scalar,), **regions)}), "cpu")
    assert branching(exe)
    yes, no = np.array(True), np.array(False)
    for rows, said in ((5, None), (2, "sizes do not fit")):
        x = np.ones(rows, "f4")
        for _ in range(2):
            assert exe(x, yes, no) == rows and exe(x, no, yes) == -rows
            if said is None:
                assert exe(x, yes, yes) == rows - 3
            else:
                with pytest.raises(InputError, match=said):
                    exe(x, yes, yes)


def test_a_branch_that_cannot_run_says_why():
    b = Builder()
    x, flag = b.input("x", "f32", ["n"]), b.input("flag", "bool", [])
    regions = arms(b, lambda c: c.neg(x), lambda c: c.emit("fail", types=(x.type,), message="no such rank"))
    exe = tallow.compile(b.finish({"y": b.emit("if", flag, types=(x.type,), **regions)}), "cpu")
    assert branching(exe)
    for _ in range(2):
        np.testing.assert_array_equal(exe(np.ones(2, "f4"), np.array(True)), -np.ones(2, "f4"))
        with pytest.raises(InputError, match="this branch cannot run: no such rank"):
            exe(np.ones(2, "f4"), np.array(False))


@pytest.mark.parametrize("trips, said", [(2, "= 3 iterations, got 2"), (9, "= 3 iterations, got more")])
def test_rows_that_are_not_as_many_as_their_type_says(trips, said):
    b = Builder()
    x, n = b.input("x", "f32", ["n", 2]), b.input("trips", "i64", [])
    body = body_of(b, [x], lambda c, i, g, v: [c.constant(np.array(True)), c.neg(v), v])
    types = (x.type, TensorType(x.dtype, (x.shape[0], *x.shape)))
    last, rows = b.emit("loop", n, b.constant(np.array(True)), x, body=body, types=types)
    exe = tallow.compile(b.finish({"last": last, "rows": rows}), "cpu")
    assert branching(exe)
    x = np.ones((3, 2), "f4")
    assert exe.run({"x": x, "trips": np.array(3)})["rows"].shape == (3, 3, 2)
    for _ in range(2):
        with pytest.raises(InputError, match=f"loop: its results are for n {said}"):
            exe.run({"x": x, "trips": np.array(trips)})


# What stays in Python -----------------------------------------------------------------------------


def reason_of(exe) -> str:
    (step,) = (s for s in exe.compiled.program.steps if isinstance(s, ControlStep))
    assert step.reason in str(exe.plan)
    return step.reason


def test_reasons_to_stay_in_python(usable):
    b = Builder()
    x, n = b.input("x", "f32", ["n"]), b.input("trips", "i64", [])
    body = body_of(b, [x], lambda c, i, g, v: [c.constant(np.array(True)), c.neg(v), v])
    types = (x.type, TensorType(x.dtype, (symbol("rows"), *x.shape)))
    results = b.emit("loop", n, b.constant(np.array(True)), x, body=body, types=types, defines=("rows",))
    exe = tallow.compile(b.finish(list(results)), "cpu")
    assert "scanned results have sizes that only the run can tell" in reason_of(exe)
    assert exe(np.ones(3, "f4"), np.array(2))[1].shape == (2, 3)

    b = Builder()
    x, flag = b.input("x", "f32", [2, 2]), b.input("flag", "bool", [])
    scalar = TensorType(x.dtype, ())
    regions = arms(b, lambda c: c.det(x), lambda c: c.reduce(x, function="add", axes=(0, 1), keepdims=False))
    exe = tallow.compile(b.finish({"y": b.emit("if", flag, types=(scalar,), **regions)}), "cpu")
    assert "det in it runs on the host: no kernel for det" in reason_of(exe)
    assert exe(np.eye(2, dtype="f4"), np.array(True)) == 1

    b = Builder()
    x, trips = b.input("x", "f32", ["n"]), b.input("trips", "i32", [])
    body = body_of(b, [x], lambda c, i, g, v: [g, c.neg(v)])
    last = b.emit("loop", trips, b.constant(np.array(True)), x, body=body, types=(x.type,))
    exe = tallow.compile(b.finish({"y": last}), "cpu")
    assert reason_of(exe) == "i32[] is no i64 that decides"
    assert exe(np.ones(1, "f4"), np.array(3, np.int32)) == -1

    exe = tallow.compile(either(), usable("opencl"))
    assert reason_of(exe) == "the device does not branch"
