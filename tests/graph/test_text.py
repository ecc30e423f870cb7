"""The text form: what is printed parses to the same graph and prints the same again; errors say where."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallow
from tallow import plugins
from tallow.builder import Builder
from tallow.dim import broadcast, floordiv, maximum, minimum, mod, symbol
from tallow.dtype import DTYPES, f32, i64, string
from tallow.errors import GraphError
from tallow.graph import (
    Graph,
    Location,
    MapType,
    Node,
    NothingType,
    OptionalType,
    SequenceType,
    TensorType,
    UnrankedType,
    Value,
    parse,
    print_graph,
)
from tallow.graph.text import print_nodes
from tallow.stages import prepare
from tallow.testing.onnx_nodes import cases
from tallow.verify import verify

DEMO = Path(__file__).parents[2] / "demo/src/tallow_demo/data/magika.onnx"


def same(a: Graph, b: Graph, known: dict[Value, Value] | None = None) -> None:
    """Fails unless the graphs differ in the identity of their values at most."""
    known = dict(known or {})

    def pair(left, right) -> None:
        assert [v.name for v in left] == [v.name for v in right]
        assert [v.type for v in left] == [v.type for v in right]
        known.update(zip(left, right, strict=True))

    assert (a.name, a.output_names, dict(a.metadata)) == (b.name, b.output_names, dict(b.metadata))
    pair(a.inputs, b.inputs)
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert (x.op, x.location) == (y.op, y.location)
        assert [known[v] for v in x.inputs] == list(y.inputs)
        assert set(x.attributes) == set(y.attributes)
        for key in x.attributes:
            same_attribute(x[key], y[key], known)
        pair(x.outputs, y.outputs)
    assert [known[v] for v in a.outputs] == list(b.outputs)


def same_attribute(a, b, known) -> None:
    if isinstance(a, Graph):
        same(a, b, known)
    elif isinstance(a, np.ndarray):
        assert a.dtype.newbyteorder("=") == b.dtype and a.shape == b.shape
        if a.dtype == object:
            assert a.tolist() == b.tolist()
        else:
            assert a.astype(b.dtype).tobytes() == b.tobytes()
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            same_attribute(x, y, known)
    else:
        assert type(a) is type(b) and (a == b or a != a and b != b)


def round_trip(graph: Graph) -> Graph:
    text = print_graph(graph, "hex")
    again = parse(text)
    same(graph, again)
    assert print_graph(again, "hex") == text
    kept: dict[str, np.ndarray] = {}
    same(graph, parse(print_graph(graph, kept), kept))
    return again


# Examples -----------------------------------------------------------------------------------------


def test_a_graph_reads_as_its_manual_says():
    b = Builder("net")
    x = b.input("x", "f32", [symbol("batch", 1, 8), 4])
    w = b.constant(np.array([1, 2, 3, 4], "f4"), "w")
    b.location = Location("scale", "Mul", "net.onnx")
    graph = b.finish({"y": b.emit("mul", x, w, name="y")}, {"producer": 'the "maker"'})
    text = """source "net.onnx"
sizes batch in 1..8
graph net(%x: f32[batch, 4])
  metadata "producer" = "the \\"maker\\""
  %w: f32[4] = constant() value=f32[4]{1.0, 2.0, 3.0, 4.0}
  %y: f32[batch, 4] = mul(%x, %w) @ "scale" (Mul)
  return y = %y"""
    assert print_graph(graph) == text
    again = verify(round_trip(graph))
    with pytest.raises(tallow.InputError, match="batch = 9 is outside 1..8"):
        tallow.compile(again)(np.ones((9, 4), "f4"))


def test_every_kind_of_attribute_comes_back():
    n, m = symbol("n"), symbol("m", 2)
    attributes = {
        "none": None,
        "flag": True,
        "count": -3,
        "ratio": 1e-5,
        "ends": (float("inf"), float("-inf"), float("nan"), -0.0),
        "words": ('a "quoted"\nline', "", "ünïcode \\"),
        "dtype": f32,
        "nested": ((1, 2), (), ((3,),)),
        "sizes": (2 * n + 1, -n, floordiv(n, 3), mod(n + 1, m), minimum(n, 7), maximum(m, n), n * m * -2),
        "size": broadcast(n, symbol("k")),
        "types": (
            TensorType(i64, (n, 3)),
            SequenceType(TensorType(f32, ())),
            TensorType(f32, (symbol("u"),)),
        ),
        "maybe": OptionalType(SequenceType(TensorType(i64, (2,)))),
        "a key with spaces": 1,
        "clash": symbol("f32") + symbol("True"),
        "other_clash": (-symbol("inf"), 2 * symbol("dim")),
        "return": 1,
    }
    x = Value("x", TensorType(f32, (n, m, symbol("in"), symbol("seq"))))
    node = Node("strange.op", (x,), (), attributes, Location("", "", "file"))
    round_trip(Graph("a graph", (x,), (x, x), (node,), ("first result", "b.c")))


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_of_every_dtype_come_back(name, rng):
    kind = DTYPES[name]
    for shape in ((), (0, 2), (3,), (2, 3), (4, 5)):
        count = int(np.prod(shape))
        if name == "string":
            array = np.array(['"', "ä\n", "", "\\"] * 5, object)[:count].reshape(shape)
        else:
            array = rng.integers(0, 256, count * kind.itemsize).astype("u1")
            if kind.kind == "bool":
                array &= 1
            if kind.bits < 8:
                array = (array % (1 << kind.bits)).astype("i1" if kind.kind == "int" else "u1")
                if kind.kind == "int":
                    array -= 1 << (kind.bits - 1)
                array = array.astype(kind.numpy) if not kind.is_float else array.view(kind.numpy)
            array = np.frombuffer(array.tobytes(), kind.numpy).reshape(shape)
        round_trip(Graph("g", (), (), (Node("constant", (), (), {"value": array}),)))


def test_arrays_of_any_layout_come_back():
    for array in (
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.arange(12, dtype="f4")[::2],
        np.array(2, ">i2"),
    ):
        round_trip(Graph("g", (), (), (Node("constant", (), (), {"value": array}),)))


def test_large_arrays_are_left_out_unless_asked_for():
    b = Builder()
    graph = b.finish([b.constant(np.arange(9))])
    assert "i64[9]{...}" in print_graph(graph)
    with pytest.raises(GraphError, match="left out: print with large="):
        parse(print_graph(graph))
    text = print_graph(graph, {})
    with pytest.raises(GraphError, match="is not among those given"):
        parse(text)
    with pytest.raises(GraphError, match='expected "elide", "hex" or a mapping'):
        print_graph(graph, "base64")


def test_regions_see_what_stands_before_them_and_may_reuse_names():
    b = Builder("outer")
    x, c = b.input("x", "f32", [3]), b.input("c", "bool", [])
    regions = {}
    for name, op in (("then", "neg"), ("otherwise", "exp")):
        inner = Builder(name)
        inner.location = Location(op, "", "")
        regions[name] = inner.finish([inner.emit(op, x, name="same")])
    y = b.emit("if", c, **regions, types=(x.type,), name="same")
    text = print_graph(b.finish([y]))
    assert text.count("%same: f32[3]") == 3
    verify(round_trip(b.finish([y])))


def test_values_that_share_a_name_are_numbered():
    x = Value("x", TensorType(f32, (3,)))
    y, z = Value("x", x.type), Value("x", x.type)
    graph = Graph("g", (x,), (z,), (Node("neg", (x,), (y,)), Node("add", (x, y), (z,))))
    again = parse(print_graph(graph))
    assert verify(again) and [v.name for v in again.nodes[1].inputs] == ["x", "x.1"]
    assert print_graph(again).replace("return x ", "return x.2 ") == print_graph(graph).replace(
        "return x ", "return x.2 "
    )


def test_nodes_print_alone():
    x, y = Value("x", TensorType(f32, (3,))), Value("odd name", TensorType(f32, (3,)))
    node = Node("neg", (x,), (y,))
    assert print_nodes([node], marked=node) == '> %"odd name": f32[3] = neg(%x)'


# Whole models -------------------------------------------------------------------------------------


def test_the_graphs_of_onnx_node_models_come_back():
    importer = pytest.importorskip("tallow_importers.onnx.importer")
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases("node"):
            try:
                graph = importer.load_model_proto(case.model)
            except tallow.ImportFailed:
                continue
            round_trip(graph)
            count += 1
    assert count > 1500


def test_a_real_model_comes_back_and_computes_the_same(rng):
    graph = tallow.load(DEMO).graph
    again = round_trip(graph)
    backend = plugins.backend("cpu")
    round_trip(prepare(graph, backend, backend.target("x86-64-v3")))
    x = {"bytes": rng.integers(0, 256, (1, 2048)).astype("i4")}
    want, got = tallow.compile(graph).run(x), tallow.compile(again).run(x)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


# Random graphs ------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=8)
PLAIN = st.from_regex(r"[a-z_][a-z0-9_.]{0,5}", fullmatch=True)
SYMBOLS = st.builds(symbol, PLAIN, st.just(0))


@st.composite
def dims(draw, depth: int = 2):
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.integers(0, 9), SYMBOLS))
    function = draw(st.sampled_from(["+", "*", "-", "floordiv", "mod", "min", "max", "broadcast"]))
    a, b = draw(dims(depth - 1)), draw(dims(depth - 1))
    match function:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "floordiv" | "mod" if b == 0:
            return a
    build = {"floordiv": floordiv, "mod": mod, "min": minimum, "max": maximum, "broadcast": broadcast}
    try:
        return build[function](a, b)
    except GraphError:
        return a


EXTENTS = dims().filter(lambda d: not isinstance(d, int) or d >= 0)
TENSORS = st.builds(
    TensorType, st.sampled_from(list(DTYPES.values())), st.lists(EXTENTS, max_size=3).map(tuple)
)
OTHERS = st.sampled_from([UnrankedType(f32), NothingType(i64)])
TYPES = st.recursive(
    TENSORS | OTHERS,
    lambda t: st.one_of(
        st.builds(SequenceType, t), st.builds(OptionalType, t), st.builds(MapType, st.just(string), t)
    ),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    NAMES,
    st.sampled_from(list(DTYPES.values())),
    dims(),
    TYPES,
)
ATTRIBUTES = st.recursive(SCALARS, lambda a: st.lists(a, max_size=3).map(tuple))
ARRAYS = st.builds(
    lambda values, kind: np.array(values).astype(kind),
    st.lists(st.floats(width=16), max_size=12),
    st.sampled_from(["f4", "f8", "f2"]),
)
LOCATIONS = st.builds(Location, NAMES, NAMES, NAMES)


@st.composite
def graphs(draw, visible: tuple = (), depth: int = 2):
    """Any graph with the right scopes; its operators mean nothing."""
    taken = {v.name for v in visible}

    def values(count: int) -> tuple:
        made = []
        for name in draw(
            st.lists(NAMES.filter(lambda n: n not in taken), min_size=0, max_size=count, unique=True)
        ):
            taken.add(name)
            made.append(Value(name, draw(TYPES)))
        return tuple(made)

    inputs = values(3)
    known = [*visible, *inputs]
    nodes = []
    for _ in range(draw(st.integers(0, 3))):
        attributes = draw(st.dictionaries(NAMES, st.one_of(ATTRIBUTES, ARRAYS), max_size=3))
        if depth and draw(st.booleans()):
            attributes[draw(NAMES)] = draw(graphs(tuple(known), depth - 1))
        operands = tuple(draw(st.lists(st.sampled_from(known), max_size=3))) if known else ()
        outputs = values(2)
        nodes.append(Node(draw(NAMES), operands, outputs, attributes, draw(LOCATIONS)))
        known += outputs
    results = tuple(draw(st.lists(st.sampled_from(known), max_size=2))) if known else ()
    names = tuple(draw(st.lists(NAMES, min_size=len(results), max_size=len(results))))
    return Graph(
        draw(NAMES), inputs, results, tuple(nodes), names, draw(st.dictionaries(NAMES, NAMES, max_size=2))
    )


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_random_graphs_come_back(graph):
    round_trip(graph)


# Errors -------------------------------------------------------------------------------------------

HEAD = "graph g(%x: f32[n, 3])\n"


@pytest.mark.parametrize(
    "text,message",
    [
        ("", 'line 1, column 1: expected "graph", got the end of the text'),
        ("graph g(%x f32[3])", "line 1, column 12: expected \":\", got 'f32'"),
        ("graph g(%x: f33[3])", "line 1, column 13: there is no dtype 'f33': expected f64, f32"),
        ("graph g(%x: f32[n ** 2])", "line 1, column 20: expected a size: an integer or a name"),
        ("graph g(%x: f32[gcd(n, 2)])", "expected one of the functions floordiv, mod, min, max, broadcast"),
        ("graph g(%x: f32[mod(n)])", "mod takes 2 sizes, got 1"),
        ("graph g(%x: f32[7 // 0])", "a size is divided by zero"),
        ("graph g(%x: f32[3], %x: f32[3])", "line 1, column 21: %x is made already"),
        (
            HEAD + "  %y: f32[3] = neg(%z)\n  return y = %y",
            "line 2, column 20: %z is not made before it is read",
        ),
        (HEAD + "  %y: f32[3] neg(%x)", "line 2, column 14: expected \"=\", got 'neg'"),
        (HEAD + "  ; neg(%x)", "line 2, column 3: expected a name, number, string or sign, got ';'"),
        (HEAD + "  neg(%x) a=\n  return", "line 3, column 9: expected .*"),
        (HEAD + "  neg(%x) a={1}", "expected an attribute: a number, text, size, dtype, array"),
        (HEAD + "  neg(%x) a=f32[2]{1.0}\n  return", "line 2, column 13: 1 elements do not fill f32\\[2\\]"),
        (HEAD + "  neg(%x) a=f32[n]{1.0}\n  return", "expected a shape of numbers"),
        (HEAD + "  neg(%x) a=i8[1]{300}\n  return", "a number is out of the range of i8"),
        (HEAD + "  neg(%x) a=bool[1]{yes}\n  return", "expected True or False"),
        (HEAD + '  neg(%x) a=f32[1]{bytes "0g"}\n  return', "bad bytes of f32"),
        (HEAD + '  neg(%x) a="\\q"\n  return', "bad escape"),
        (HEAD + "  neg(%x)\n", 'line 3, column 1: expected a node or "return", got the end'),
        (HEAD + "  return y = %x extra", "line 2, column 17: expected the end of the text, got 'extra'"),
        ("sizes n in x..\n" + HEAD, "expected the least size, an integer"),
        ("source name\n" + HEAD, "expected where nodes come from in quotes"),
        (HEAD + "  neg(%x) a=" + "(" * 5000, "nested too deeply"),
    ],
)
def test_errors_say_where_and_what_was_expected(text, message):
    with pytest.raises(GraphError, match=message):
        parse(text)


def test_an_error_points_at_its_place():
    with pytest.raises(GraphError) as caught:
        parse(HEAD + "  %y: f32[3] = neg(%z)")
    assert str(caught.value).splitlines()[1:] == ["    %y: f32[3] = neg(%z)", "                     ^"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_text_is_an_error_or_a_graph(data):
    b = Builder("net")
    x = b.input("x", "f32", ["n", 4])
    text = print_graph(b.finish({"y": b.mul(x, b.constant(np.ones(4, "f4")))}))
    at = data.draw(st.integers(0, len(text) - 1))
    try:
        graph = parse(text[:at] + data.draw(st.text(max_size=3)) + text[at + data.draw(st.integers(0, 9)) :])
    except GraphError:
        return
    assert print_graph(parse(print_graph(graph))) == print_graph(graph)
