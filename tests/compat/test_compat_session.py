"""InferenceSession beside onnxruntime's: the same calls give the same results, types and exceptions."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest
from compat_support import CPU, MODULES, model, operator, outcome, port, product, same, session, sums
from onnx import TensorProto, helper

import tallow
import tallow.compat.onnxruntime as ours

X = np.arange(6, dtype=np.float32).reshape(2, 1, 3)


def running(proto, feed, wanted=None):
    """An action: a session of a model run on a feed."""
    return lambda module: session(module, proto).run(wanted, feed)


# What a session tells ------------------------------------------------------------------------------


def ports_of(module, proto):
    made = session(module, proto)
    kinds = (made.get_inputs(), made.get_outputs(), made.get_overridable_initializers())
    return [[(p.name, p.type, p.shape, str(p)) for p in ports] for ports in kinds]


def nonzero():
    return operator("NonZero", [port("x", "FLOAT", ["n"])], [port("y", "INT64", [1, "found"])])


def reshaped():
    ports = [port("x", "FLOAT", [None, "n"]), port("s", "INT64", [2])]
    return operator("Reshape", ports, [port("y", "FLOAT", None)])


def double():
    """A size that no input has a name for."""
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)]
    return model(nodes, [port("x", "FLOAT", ["n"])], [port("y", "FLOAT", ["double"])])


@pytest.mark.parametrize("make", [sums, product, nonzero, reshaped, double])
def test_inputs_and_outputs(make):
    same(lambda module: ports_of(module, make()))


@pytest.mark.parametrize(
    "kind", ["FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT16", "INT64", "BOOL", "FLOAT8E4M3FN", "STRING"]
)
def test_names_of_types(kind):
    to = getattr(TensorProto, kind)
    proto = operator("Cast", [port("x", "FLOAT", ["n"])], [port("y", kind, ["n"])], opset=19, to=to)
    same(lambda module: ports_of(module, proto))


def test_metadata():
    facts = ("producer_name", "graph_name", "domain", "description", "graph_description", "version")

    def told(module):
        meta = session(module, sums()).get_modelmeta()
        return [getattr(meta, fact) for fact in facts], dict(meta.custom_metadata_map)

    assert same(told)[1][1][1] == {"letters": "a\nb", "producer": "someone else"}


def test_metadata_survives_the_cache_and_artifacts(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(sums(), path)
    told = [ports_of_path(path), ports_of_path(path)]  # the second from the cache
    tallow.compile(path).save(tmp_path / "m.tallow")
    told.append(ports_of_path(tmp_path / "m.tallow"))
    assert told[0] == told[1] == told[2] and told[0][1] == "maker"


def ports_of_path(path):
    made = ours.InferenceSession(path)
    return [str(p) for p in made.get_inputs() + made.get_outputs()], made.get_modelmeta().producer_name


def test_a_model_that_no_file_declares(tmp_path):
    b = tallow.builder.Builder("built")
    x = b.input("x", "f32", ["n", 4])
    path = tmp_path / "m.tallow"
    tallow.compile(b.finish({"y": b.softmax(x, axis=1)})).save(path)
    made = ours.InferenceSession(path)
    (argument,) = made.get_inputs()
    assert (argument.type, argument.shape) == ("tensor(float)", [None, 4])
    np.testing.assert_allclose(made.run(None, {"x": np.zeros((1, 4), "f4")})[0], 0.25)


# Running -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wanted",
    [
        None,
        [],
        (),
        {"s": 1}.keys(),
        np.array(["y"]),
        [b"s"],
        b"s",
        [None],
        ["s"],
        ["s", "y"],
        ("y", "y"),
        "y",
        "yy",
        [1],
        ["w"],
        ["nothing"],
    ],
)
def test_wanted_results(wanted):
    same(running(sums(), {"x": X}, wanted))


FEEDS = {
    "missing": {"z": X},
    "empty": {},
    "unknown": {"x": X, "z": X},
    "constant": {"x": X, "w": np.ones(3, "f4")},
    "rank": {"x": X[0]},
    "size": {"x": np.zeros((2, 1, 4), "f4")},
    "double": {"x": X.astype("f8")},
    "integers": {"x": X.astype("i8")},
    "booleans": {"x": X.astype("?")},
    "texts": {"x": X.astype("U")},
    "list": {"x": X.tolist()},
    "nested arrays": {"x": [X[0], X[1]]},
    "ragged list": {"x": [[1.0], 2.0]},
    "list of texts": {"x": ["a"]},
    "tuple": {"x": tuple(X.tolist())},
    "number": {"x": 1.0},
    "numpy number": {"x": np.float32(1)},
    "nothing": {"x": None},
    "transposed": {"x": np.asfortranarray(np.arange(12, dtype="f4").reshape(2, 2, 3))},
    "strided": {"x": np.arange(24, dtype="f4").reshape(4, 2, 3)[::2]},
    "no elements": {"x": np.zeros((0, 1, 3), "f4")},
    "no mapping": [X],
    "a number for a name": {"x": X, 3: X},
}


@pytest.mark.parametrize("name", FEEDS)
def test_feeds(name):
    same(running(sums(), FEEDS[name]))


@pytest.mark.parametrize("name", ["missing", "empty", "unknown", "rank", "size", "double", "texts"])
def test_messages_are_the_same(name):
    """Programs look for words in these."""
    texts = []
    for module in MODULES:
        with pytest.raises(Exception) as raised:
            session(module, sums()).run(None, FEEDS[name])
        texts.append(str(raised.value))
    assert texts[0] == texts[1]


def test_wanted_results_may_come_one_by_one():
    same(lambda module: running(sums(), {"x": X}, (name for name in ["s", "y"]))(module))


def test_a_failing_node_is_named():
    """In onnxruntime's words; those after them are each one's own."""
    texts = []
    for module in MODULES:
        with pytest.raises(Exception, match="dimension mismatch|inner sizes 3 and 4 differ") as raised:
            running(product(), {"a": np.zeros((2, 3), "f4"), "b": np.zeros((4, 5), "f4")})(module)
        texts.append(str(raised.value).partition(" Name:")[0])
    assert (
        texts[0]
        == texts[1]
        == ("[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node.")
    )


def test_foreign_byte_order_is_read_right():
    """onnxruntime takes the bytes as they are."""
    (y,) = session(ours, sums()).run(["y"], {"x": X.astype(">f4")})
    np.testing.assert_array_equal(y, X + 1)


@pytest.mark.parametrize("values", [[1.5, 2.0], [True, False], [], [1, 2]])
def test_lists_become_the_inputs_type(values):
    proto = operator("Identity", [port("x", "INT64", ["n"])], [port("y", "INT64", ["n"])])
    same(running(proto, {"x": values}))


def test_scalars():
    """One element may come with axes; onnxruntime then lets the axes through."""
    proto = operator("Identity", [port("x", "FLOAT", [])], [port("y", "FLOAT", [])])
    same(running(proto, {"x": np.array(3, "f4")}))
    same(lambda module: float(running(proto, {"x": np.array([3], "f4")})(module)[0].item()))
    assert outcome(running(proto, {"x": np.ones(2, "f4")}), ours) == ("raises", "InvalidArgument")


TEXTS = [["a", "bé"], np.array(["a", "bé"]), np.array(["a", "bé"], object), np.array([1], object)]


@pytest.mark.parametrize("values", TEXTS, ids=range(len(TEXTS)))
def test_texts(values):
    proto = operator("Identity", [port("x", "STRING", ["n"])], [port("y", "STRING", ["n"])])
    same(running(proto, {"x": values}))


def test_results_are_fresh():
    made = session(ours, sums())
    first, second = (made.run(["y"], {"x": X})[0] for _ in range(2))
    assert not np.shares_memory(first, second) and first.flags.writeable


def test_a_failing_operator_fails():
    ports = [port("x", "FLOAT", ["n"]), port("s", "INT64", [2])]
    proto = operator("Reshape", ports, [port("y", "FLOAT", [None, None])])
    same(running(proto, {"x": np.zeros(6, "f4"), "s": np.array([4, 2])}))
    same(running(proto, {"x": np.zeros(6, "f4"), "s": [3, 2]}))
    same(running(product(), {"a": np.zeros((2, 3), "f4"), "b": np.zeros((4, 5), "f4")}))


def joined():
    """Two inputs of sizes with one name, which the model does not need to be equal."""
    ports = [port(name, "FLOAT", ["n", 2]) for name in "ab"]
    return operator("Concat", ports, [port("y", "FLOAT", ["m", 2])], axis=0)


def test_sizes_of_one_name_may_differ(heard, tmp_path):
    """As onnxruntime has it. Tallow says so and compiles again."""
    feed = {"a": np.ones((2, 2), "f4"), "b": np.ones((3, 2), "f4")}
    same(running(joined(), feed))
    assert len(heard) == 1 and "'n' differ" in heard[0]
    same(running(joined(), {**feed, "b": np.ones((3, 3), "f4")}))
    made = session(ours, joined())
    for rows in (2, 4, 3):
        assert made.run(None, {**feed, "b": np.ones((rows, 2), "f4")})[0].shape == (rows + 2, 2)
    tallow.compile(joined().SerializeToString(), format="onnx").save(tmp_path / "m.tallow")
    made = ours.InferenceSession(tmp_path / "m.tallow")
    assert outcome(lambda module: made.run(None, feed), ours) == ("raises", "Fail")


def test_only_the_sizes_that_differ_are_disbelieved(heard):
    """Of two names; each that turns out to differ makes the model once more."""
    ports = [port(name, "FLOAT", ["n", "k"]) for name in "ab"] + [port("c", "FLOAT", ["n", 2])]
    nodes = [
        onnx.helper.make_node("Concat", ["a", "b"], ["rows"], axis=0),
        onnx.helper.make_node("Concat", ["c", "c"], ["twice"], axis=0),
    ]
    proto = model(nodes, ports, [port("rows", "FLOAT", None), port("twice", "FLOAT", None)])
    mine, theirs = (session(module, proto) for module in (ours, MODULES[0]))
    for a, b, c in [((2, 3), (2, 3), 2), ((2, 3), (4, 3), 2), ((1, 3), (4, 3), 5), ((2, 3), (2, 3), 2)]:
        feed = {"a": np.ones(a, "f4"), "b": np.zeros(b, "f4"), "c": np.ones((c, 2), "f4")}
        for got, want in zip(mine.run(None, feed), theirs.run(None, feed), strict=True):
            np.testing.assert_array_equal(got, want)
    assert mine._disbelieved == {"n"}
    with pytest.raises(ours.capi._pybind_state.Fail):
        mine.run(None, {"a": np.ones((2, 3), "f4"), "b": np.ones((2, 4), "f4"), "c": np.ones((2, 2), "f4")})
    assert [line.partition(" differ")[0] for line in heard] == ["sizes named 'n'", "sizes named 'k', 'n'"]


def test_eight_bit_floats_come_as_bits():
    proto = operator(
        "Cast",
        [port("x", "FLOAT", ["n"])],
        [port("y", "FLOAT8E4M3FN", ["n"])],
        opset=19,
        to=TensorProto.FLOAT8E4M3FN,
    )
    same(running(proto, {"x": np.array([1, -2.5], "f4")}))


def test_runs_from_several_threads():
    made = session(ours, product())
    given = [np.full((2, 3), n, "f4") for n in range(8)]
    ones, found = np.ones((3, 2), "f4"), {}

    def work(n):
        for _ in range(20):
            found[n] = made.run(None, {"a": given[n], "b": ones})[0]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(8):
        np.testing.assert_array_equal(found[n], np.full((2, 2), 3 * n, "f4"))


def test_run_async():
    def answer(module, feed):
        done, got = threading.Event(), []

        def callback(results, user_data, error):
            got.append((results, user_data, bool(error)))
            done.set()

        session(module, sums()).run_async(["y"], feed, callback, "mine")
        assert done.wait(10)
        return got[0]

    same(lambda module: answer(module, {"x": X}))
    assert answer(ours, {"x": X[0]}) == ([], "mine", True)


# Sequences, optionals, maps ------------------------------------------------------------------------

SEQUENCE = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
OPTIONAL = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))


def mapping(key) -> onnx.TypeProto:
    of = onnx.TypeProto()
    of.sequence_type.elem_type.map_type.key_type = key
    of.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    return of


def test_sequences():
    split = operator("SplitToSequence", [port("x", "FLOAT", ["n"])], [port("y", SEQUENCE)])
    same(lambda module: ports_of(module, split))
    same(running(split, {"x": np.arange(3, dtype="f4")}))
    length = operator("SequenceLength", [port("x", SEQUENCE)], [port("y", "INT64", [])])
    same(lambda module: ports_of(module, length))
    same(running(length, {"x": [np.ones(2, "f4"), np.ones(3, "f4")]}))
    same(running(length, {"x": np.ones(2, "f4")}))


def test_optionals():
    proto = operator("OptionalHasElement", [port("x", OPTIONAL)], [port("y", "BOOL", [])], opset=18)
    same(lambda module: ports_of(module, proto))
    for feed in ({"x": None}, {"x": np.ones(2, "f4")}, {}):
        same(running(proto, feed))


@pytest.mark.parametrize("labels", [{"classlabels_int64s": [3, 4]}, {"classlabels_strings": ["a", "b"]}])
def test_maps(labels):
    key = TensorProto.INT64 if "classlabels_int64s" in labels else TensorProto.STRING
    proto = operator(
        "ZipMap", [port("x", "FLOAT", ["n", 2])], [port("y", mapping(key))], domain="ai.onnx.ml", **labels
    )
    same(lambda module: ports_of(module, proto))
    _, (_, (result,)) = same(running(proto, {"x": np.array([[1, 2], [3, 4]], "f4")}))
    for found in result[1]:
        assert {type(value) for value in found.values()} == {float}


# Loading -------------------------------------------------------------------------------------------


def test_paths_and_bytes(tmp_path):
    path = tmp_path / "without_suffix"
    onnx.save(sums(), path)
    for source in (path, str(path), path.read_bytes()):
        same(
            lambda module, source=source: module.InferenceSession(source, providers=CPU).run(["y"], {"x": X})
        )


def test_private_attributes_that_programs_read(tmp_path):
    """optimum, kokoro-onnx and insightface do."""

    def read(made):
        ports = [*made._inputs_meta, *made._outputs_meta, *made._overridable_initializers]
        return (
            *(made._model_path, made._providers, made._provider_options, made._fallback_providers),
            *(made._model_bytes, made._model_meta.producer_name, [p.name for p in ports]),
            *(made._sess is not None, made._profiling_start_time_ns >= 0, made._enable_fallback),
        )

    path = tmp_path / "m.onnx"
    onnx.save(sums(), path)
    same(lambda module: read(module.InferenceSession(path, providers=CPU)))
    same(lambda module: read(session(module, sums())))


def test_external_data(tmp_path):
    onnx.save(sums(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    same(lambda module: module.InferenceSession(tmp_path / "m.onnx", providers=CPU).run(["y"], {"x": X}))


def without(change):
    proto = sums()
    change(proto.graph)
    return proto.SerializeToString()


WRONG = {
    "no file": "/there/is/no/such.onnx",
    "no path": "",
    "a folder": "/",
    "nothing": b"",
    "garbage": b"garbage",
    "truncated": sums().SerializeToString()[:40],
    "a number": 5,
    "a bytearray": bytearray(b"x"),
    "unknown operator": without(lambda graph: setattr(graph.node[0], "op_type", "Foo")),
    "unknown domain": without(lambda graph: setattr(graph.node[0], "domain", "foo.bar")),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_loaded(name):
    assert same(lambda module: module.InferenceSession(WRONG[name]))[0] == "raises"


@pytest.mark.parametrize(
    "kind", ["no file", "a folder", "nothing", "garbage", "garbage in a file", "an empty file"]
)
def test_what_is_said_of_it(kind, tmp_path):
    """Each message begins as onnxruntime's, which programs look for."""
    (tmp_path / "garbage in a file").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "an empty file").touch()
    source = WRONG.get(kind, tmp_path / kind)
    texts = []
    for module in MODULES:
        with pytest.raises(Exception) as raised:
            module.InferenceSession(source, providers=CPU)
        texts.append(str(raised.value))
    assert texts[1].startswith(texts[0].rstrip(".")), texts


def test_foreign_options_are_refused():
    assert same(lambda module: module.InferenceSession(sums().SerializeToString(), 5)) == (
        "raises",
        "TypeError",
    )


def with_default(kind="FLOAT", shape=(3,)):
    """sums(), whose w may be given."""
    proto = sums()
    proto.graph.input.append(port("w", kind, list(shape)))
    return proto


def test_overridable_initializers_are_told():
    same(lambda module: ports_of(module, with_default()))
    same(running(with_default(), {"x": X}))


W = np.array([1, 2, 4], "f4")
DEFAULTS = {
    "given": {"x": X, "w": W},
    "given as a list": {"x": X, "w": W.tolist()},
    "in the other order": {"w": W, "x": X},
    "without the input": {"w": W},
    "of another type": {"x": X, "w": W.astype("f8")},
    "of another rank": {"x": X, "w": W[None]},
    "of another size": {"x": X, "w": W[:2]},
    "with another name": {"x": X, "v": W},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_value_for_an_input_with_a_default(name):
    same(running(with_default(), DEFAULTS[name]))


def test_values_for_defaults_cannot_be_bound():
    same(lambda module: session(module, with_default()).io_binding().bind_cpu_input("w", W))


def test_values_for_defaults_are_taken_by_every_way_to_run(heard):
    def ways(module):
        made = session(module, with_default())
        value = module.OrtValue.ortvalue_from_numpy
        return [
            *made.run(["y"], {"x": X, "w": W}),
            *made.run(["y"], {"x": X}),
            made.run_with_ort_values(["y"], {"x": value(X), "w": value(W)})[0].numpy(),
        ]

    same(ways)
    assert heard == ["inputs 'w' are given that have a default: compiling the model again for that"]


def test_values_for_defaults_whose_sizes_differ(heard):
    """Both reasons to compile again at once, and an artifact, which cannot."""
    ports = [port(name, "FLOAT", ["n", 2]) for name in "ab"]
    constants = {"b": np.zeros((3, 2), "f4")}
    nodes = [onnx.helper.make_node("Concat", ["a", "b"], ["y"], axis=0)]
    proto = model(nodes, ports, [port("y", "FLOAT", ["m", 2])], constants)
    feed = {"a": np.ones((2, 2), "f4"), "b": np.ones((5, 2), "f4")}
    same(running(proto, feed))
    assert heard[-1].startswith("sizes named 'n' differ and inputs 'b' are given that have a default")


def test_defaults_are_constant_in_artifacts(tmp_path):
    tallow.compile(with_default().SerializeToString(), format="onnx").save(tmp_path / "m.tallow")
    made = ours.InferenceSession(tmp_path / "m.tallow")
    assert [port.name for port in made.get_overridable_initializers()] == ["w"]
    with pytest.raises(
        ours.capi._pybind_state.InvalidArgument, match="its default is constant in an artifact"
    ):
        made.run(None, {"x": X, "w": W})


def test_the_error_below_is_kept():
    with pytest.raises(Exception, match="Foo") as raised:
        ours.InferenceSession(WRONG["unknown operator"])
    assert isinstance(raised.value.__cause__, tallow.ImportFailed)


# Providers -----------------------------------------------------------------------------------------

PROVIDERS = {
    "none": None,
    "empty": [],
    "cpu": CPU,
    "known, absent": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "unknown": ["FooExecutionProvider"],
    "with options": [("CPUExecutionProvider", {"a": 1})],
    "twice": CPU * 2,
    "a number in it": [5],
}


@pytest.mark.parametrize("name", PROVIDERS)
def test_providers(name, capsys):
    def chosen(module):
        made = module.InferenceSession(sums().SerializeToString(), providers=PROVIDERS[name])
        return made.get_providers(), made.get_provider_options()

    same(chosen)


@pytest.mark.parametrize("options", [[{}], [{}, {}], 5, ["x"]])
def test_provider_options(options, capsys):
    def chosen(module):
        return module.InferenceSession(
            sums().SerializeToString(), providers=CPU, provider_options=options
        ).get_providers()

    same(chosen)


def test_an_absent_provider_is_said():
    with pytest.warns(UserWarning, match="'CUDAExecutionProvider' is not in available"):
        ours.InferenceSession(sums().SerializeToString(), providers=["CUDAExecutionProvider", *CPU])


def test_unknown_providers_without_fallback():
    def refused(module):
        module.InferenceSession(sums().SerializeToString(), providers=["Foo"], enable_fallback=0)

    assert same(refused) == ("raises", "RuntimeError")


def test_backends_are_providers():
    """The tests' plugin is a backend that core does not know."""
    available = ours.get_available_providers()
    assert "FakeExecutionProvider" in available and available[-1:] == CPU
    made = ours.InferenceSession(sums().SerializeToString(), providers=["FakeExecutionProvider"])
    assert made.get_providers() == ["FakeExecutionProvider", *CPU]
    np.testing.assert_array_equal(made.run(["y"], {"x": X})[0], X + 1)


@pytest.mark.parametrize(
    ("number", "device"), [({}, "fake"), ({"device_id": 0}, "fake"), ({"device_id": "1"}, "fake:apart")]
)
def test_devices_by_number(number, device, heard):
    made = ours.InferenceSession(sums().SerializeToString(), providers=[("FakeExecutionProvider", number)])
    assert made._executable.device.info.name == device and heard == []
    np.testing.assert_array_equal(made.run(["y"], {"x": X})[0], X + 1)
    values = {"x": ours.OrtValue.ortvalue_from_numpy(X)}
    np.testing.assert_array_equal(made.run_with_ort_values(["y"], values)[0].numpy(), X + 1)


@pytest.mark.parametrize("number", ["9", "-1", "first"])
def test_devices_that_are_not_there(number, capsys):
    asked = [("FakeExecutionProvider", {"device_id": number})]
    with pytest.raises(RuntimeError, match=f"no device {number}: it has fake, fake:apart"):
        ours.InferenceSession(sums().SerializeToString(), providers=asked, enable_fallback=0)
    made = ours.InferenceSession(sums().SerializeToString(), providers=asked)
    assert made.get_providers() == CPU and "EP Error" in capsys.readouterr().out


def test_artifacts_run_where_they_are_made_for(tmp_path):
    tallow.compile(sums().SerializeToString(), "fake", format="onnx").save(tmp_path / "m.tallow")
    made = ours.InferenceSession(tmp_path / "m.tallow")
    assert made.get_providers() == ["FakeExecutionProvider", *CPU]
    np.testing.assert_array_equal(made.run(["y"], {"x": X})[0], X + 1)


def test_a_device_that_cannot_is_said_and_replaced(monkeypatch, heard):
    def refuse(kernels, target):
        raise tallow.CompileError("this device is out of order")

    monkeypatch.setattr(tallow.plugins.backend("fake"), "compile", refuse)
    monkeypatch.setenv("TALLOW_CACHE", "")
    made = ours.InferenceSession(product().SerializeToString(), providers=["FakeExecutionProvider"])
    assert made.get_providers() == CPU and "out of order" in heard[0]


def test_set_providers():
    def again(module):
        made = session(module, sums())
        made.set_providers(CPU)
        return made.get_providers(), made.run(["y"], {"x": X})

    same(again)


ASKED = {
    "memory": lambda made: [
        (info.device_id, info.mem_type.name, info.allocator_type.name)
        for info in [*made.get_input_memory_infos(), *made.get_output_memory_infos()]
    ],
    "tuning": lambda made: [made.get_tuning_results(), made.set_tuning_results([])],
    "dynamic options": lambda made: made.set_ep_dynamic_options({"ep.dynamic.workload_type": "Efficient"}),
    "captured graphs": lambda made: made.release_captured_graph(),
    "a value": lambda made: made.create_ortvalue_from_shape_and_type([2, 3], np.float32, "cpu").shape(),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_else_a_session_tells(name):
    same(lambda module: ASKED[name](session(module, product())))


def test_functions_of_the_module():
    with_cuda = "CUDAExecutionProvider" in ours.get_available_providers()
    assert ours.get_device() == ("GPU" if with_cuda else "CPU")
    assert set(MODULES[0].get_all_providers()) <= set(ours.get_all_providers())
    assert "Tallow" in ours.get_build_info() and ours.__version__ == ours.get_version_string()
    same(lambda module: [module.has_collective_ops(), module.disable_telemetry_events()])
    assert outcome(lambda module: module.nonsense, ours) == ("raises", "AttributeError")
