"""SessionOptions and RunOptions: what they accept, what they do, and what is said of those that do nothing."""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from compat_support import MODULES, model, operator, outcome, port, product, same, session, sums
from onnx import helper

import tallow
import tallow.compat.onnxruntime as ours
from tallow.compat.onnxruntime import said
from tallow.compat.onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, NotImplemented

X = np.zeros((2, 1, 3), np.float32)
ENUMERATIONS = (
    *("GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder"),
    *("OrtAllocatorType", "OrtMemType", "OrtSparseFormat"),
)


@pytest.mark.parametrize("name", ENUMERATIONS)
def test_enumerations(name):
    def told(module):
        kind = getattr(module, name)
        members = {member: int(value) for member, value in kind.__members__.items()}
        first = next(iter(kind.__members__.values()))
        return (
            members,
            first.name,
            first.value,
            str(first),
            repr(first),
            first == first.value,
            kind(first.value),
        )

    same(told)


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions"])
def test_defaults(name):
    def told(module):
        made = getattr(module, name)()
        found = {n: getattr(made, n) for n in dir(made) if not n.startswith("_")}
        return {n: (type(v).__name__, v) for n, v in found.items() if not callable(v)}

    same(told)


def assigning(attribute, value):
    def assigned(module):
        made = module.SessionOptions()
        given = value(module) if callable(value) else value
        setattr(made, attribute, given)
        return getattr(made, attribute)

    return assigned


ASSIGNED = [
    ("intra_op_num_threads", 3),
    ("intra_op_num_threads", np.int64(3)),
    ("intra_op_num_threads", "3"),
    ("intra_op_num_threads", 1.5),
    ("intra_op_num_threads", -1),
    ("enable_mem_pattern", 0),
    ("enable_mem_pattern", None),
    ("enable_mem_pattern", "no"),
    ("graph_optimization_level", 99),
    ("graph_optimization_level", lambda m: m.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    ("graph_optimization_level", lambda m: m.ExecutionMode.ORT_PARALLEL),
    ("execution_mode", lambda m: m.ExecutionMode.ORT_PARALLEL),
    ("logid", "me"),
    ("logid", 3),
    ("profile_file_prefix", "p"),
    ("log_severity_level", 4),
    ("no_such_option", 1),
]


@pytest.mark.parametrize(("attribute", "value"), ASSIGNED)
def test_assignment(attribute, value):
    same(assigning(attribute, value))


@pytest.mark.parametrize(
    ("kind", "verb"),
    [("SessionOptions", "session_config"), ("RunOptions", "run_config")],
    ids=["session", "run"],
)
def test_entries(kind, verb):
    def entries(module, *pair):
        made = getattr(module, kind)()
        getattr(made, f"add_{verb}_entry")(*pair)
        return getattr(made, f"get_{verb}_entry")("a")

    same(lambda module: entries(module, "a", "b"))
    same(lambda module: entries(module, "c", "b"))
    same(lambda module: entries(module, "a", 1))


# What options do -----------------------------------------------------------------------------------


def fixing(proto, fix, feed):
    def fixed(module):
        options = module.SessionOptions()
        fix(options)
        made = module.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [p.shape for p in made.get_inputs()], made.run(None, feed)

    return fixed


def test_sizes_by_name():
    def fix(options):
        options.add_free_dimension_override_by_name("batch", 2)
        options.add_free_dimension_override_by_name("nobody", 4)

    same(fixing(sums(), fix, {"x": X}))
    same(fixing(sums(), fix, {"x": X[:1]}))


def test_sizes_by_meaning():
    argument = helper.make_tensor_value_info("x", 1, [None, "n"], shape_denotation=["DATA_BATCH", ""])
    proto = model([helper.make_node("Neg", ["x"], ["y"])], [argument], [port("y", "FLOAT", [None, "n"])])

    def fix(options):
        options.add_free_dimension_override_by_denotation("DATA_BATCH", 2)

    same(fixing(proto, fix, {"x": np.ones((2, 3), "f4")}))
    same(fixing(proto, fix, {"x": np.ones((3, 3), "f4")}))


def test_threads():
    options = ours.SessionOptions()
    options.intra_op_num_threads = 1
    assert session(ours, product(), options)._executable.threads == 1
    options.intra_op_num_threads = 0
    assert session(ours, product(), options)._executable.threads >= 1
    assert session(ours, product(), options).get_session_options() is options


def test_providers_from_options():
    options = ours.SessionOptions()
    assert not options.has_providers()
    options.add_provider("FakeExecutionProvider", {})
    made = ours.InferenceSession(product().SerializeToString(), options)
    assert options.has_providers() and made.get_providers()[0] == "FakeExecutionProvider"


ASKED = {
    "an empty key": lambda o: o.add_session_config_entry("", "1"),
    "a long key": lambda o: o.add_session_config_entry("k" * 1025, "1"),
    "the longest key": lambda o: o.add_session_config_entry("k" * 1024, "1"),
    "a long value": lambda o: o.add_session_config_entry("k", "v" * 8193),
    "a size as text": lambda o: o.add_free_dimension_override_by_name("n", "1"),
    "a size with a fraction": lambda o: o.add_free_dimension_override_by_denotation("N", 1.5),
    "a size": lambda o: o.add_free_dimension_override_by_name("n", np.int64(1)),
    "an unknown provider": lambda o: o.add_provider("Bogus", {}),
    "the host": lambda o: [o.add_provider("CPUExecutionProvider", {}), o.has_providers()],
}


@pytest.mark.parametrize("name", ASKED)
def test_arguments_of_options(name):
    same(lambda module: ASKED[name](module.SessionOptions()))


def test_termination():
    def run(module):
        options = module.RunOptions()
        options.terminate = True
        return session(module, sums()).run(None, {"x": X}, options)

    assert same(run) == ("raises", "Fail")


def test_foreign_run_options_are_refused():
    assert same(lambda module: session(module, sums()).run(None, {"x": X}, 5)) == ("raises", "TypeError")


# What is said, and what refused --------------------------------------------------------------------


def with_options(**settings):
    options = ours.SessionOptions()
    for name, value in settings.items():
        setattr(options, name, value)
    return options


WITHOUT_EFFECT = {
    "enable_cpu_mem_arena": False,
    "enable_mem_pattern": False,
    "enable_mem_reuse": False,
    "execution_mode": ours.ExecutionMode.ORT_PARALLEL,
    "execution_order": ours.ExecutionOrder.PRIORITY_BASED,
    "graph_optimization_level": ours.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "inter_op_num_threads": 4,
    "log_verbosity_level": 1,
    "logid": "me",
    "use_per_session_threads": False,
}


def test_the_model_is_written_as_it_came(heard, tmp_path):
    """Where a program asks for the optimised one; it may be the file of the model itself."""
    path, proto = tmp_path / "m.onnx", product()
    session(ours, proto, with_options(optimized_model_filepath=str(path)))
    assert path.read_bytes() == proto.SerializeToString()
    for name in ("again.onnx", "m.onnx"):
        ours.InferenceSession(path, with_options(optimized_model_filepath=str(tmp_path / name)))
        assert (tmp_path / name).read_bytes() == path.read_bytes()
    (line, *_) = heard
    assert "optimized_model_filepath" in line and "as it came" in line


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_a_setting_without_effect_is_said_once(name, heard):
    for _ in range(2):
        session(ours, product(), with_options(**{name: WITHOUT_EFFECT[name]}))
    (line,) = heard
    assert line.startswith(f"cannot honour SessionOptions.{name} = ") and ": " in line.partition(" = ")[2]


def test_every_setting_has_a_meaning_or_is_said():
    """The honoured ones; a setting that is added to neither list fails here."""
    honoured = {
        *("enable_profiling", "intra_op_num_threads", "log_severity_level"),
        *("profile_file_prefix", "use_deterministic_compute"),
    }
    known = {n for n, s in vars(ours.SessionOptions).items() if isinstance(s, ours.options.Setting)}
    said = {*WITHOUT_EFFECT, "optimized_model_filepath"}
    assert known == honoured | said
    assert {n for n in known if getattr(ours.SessionOptions, n).why} == said


def test_defaults_say_nothing(heard):
    options = with_options(
        intra_op_num_threads=1,
        inter_op_num_threads=1,
        graph_optimization_level=ours.GraphOptimizationLevel.ORT_ENABLE_ALL,
        use_deterministic_compute=True,
    )
    options.add_session_config_entry("session.load_model_format", "ONNX")
    session(ours, product(), options).run(None, {"a": np.ones((1, 1), "f4"), "b": np.ones((1, 1), "f4")})
    assert heard == []


def test_entries_without_effect_are_said(heard):
    options = ours.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    made = session(ours, sums(), options)
    run = ours.RunOptions()
    run.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    run.only_execute_path_to_fetches = True
    made.run(None, {"x": X}, run)
    assert [line.split()[2] for line in heard] == [
        "SessionOptions",
        "RunOptions.only_execute_path_to_fetches",
        "RunOptions",
    ]


def test_other_things_without_effect_are_said(heard):
    ours.set_seed(3)
    ours.set_global_thread_pool_sizes(1, 1)
    ours.set_default_logger_verbosity(2)
    ours.enable_telemetry_events()
    options = ours.SessionOptions()
    options.set_provider_selection_policy(None)
    options.set_provider_selection_policy_delegate(None)
    options.set_load_cancellation_flag(True)
    ours.InferenceSession(sums().SerializeToString(), providers=[("CPUExecutionProvider", {"arena": 1})])
    session(ours, sums(), disabled_optimizers=["A"])
    assert len(heard) == 9 and all(line.startswith("cannot honour ") for line in heard)


def test_a_session_that_wants_no_warnings_gets_none(heard):
    session(ours, product(), with_options(enable_mem_pattern=False, log_severity_level=3))
    assert heard == []


def test_severity_of_the_logger(heard):
    ours.set_default_logger_severity(3)
    session(ours, product(), with_options(enable_mem_pattern=False))
    assert heard == []
    ours.set_default_logger_severity(2)
    assert outcome(lambda module: module.set_default_logger_severity(9), ours) == ("raises", "RuntimeError")


def test_messages_to_a_callback(heard):
    got = []
    ours.set_default_logger_callback(lambda *facts: got.append(facts))
    try:
        ours.set_seed(4)
    finally:
        ours.set_default_logger_callback(None)
    ((severity, _, _, _, message),) = got
    assert severity == 2 and "set_seed(4)" in message and said.LOGGER.propagate


def test_warnings_reach_logging(caplog, monkeypatch):
    monkeypatch.setattr(said, "_told", set())
    with caplog.at_level(logging.WARNING):
        ours.set_seed(5)
    assert [record.name for record in caplog.records] == ["tallow.compat.onnxruntime"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda o: o.register_custom_ops_library("ops.so"),
        lambda o: o.add_external_initializers_from_files_in_memory(["w"], [b""], [0]),
        lambda o: o.add_provider_for_devices([], {}),
        lambda o: o.add_session_config_entry("session.load_model_format", "ORT"),
        lambda o: ours.RunOptions().add_active_adapter(None),
    ],
)
def test_what_would_change_results_is_refused(ask):
    with pytest.raises(NotImplemented, match="NOT_IMPLEMENTED : .+: .+|NOT_IMPLEMENTED : .+ are .+"):
        ask(ours.SessionOptions())


W = np.array([1, 2, 4], "f4")


def apart(folder: Path) -> tuple[Path, bytes]:
    """sums() with w in another file: its path, and its bytes, from which that file cannot be found."""
    onnx.save(sums(), folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return folder / "m.onnx", (folder / "m.onnx").read_bytes()


GIVEN = {
    "one": lambda o, w: o.add_initializer("w", w),
    "one that is unknown": lambda o, w: o.add_initializer("v", w),
    "one array": lambda o, w: o.add_initializer("w", w.numpy()),
    "more names": lambda o, w: o.add_external_initializers(["w", "v"], [w]),
    "an array": lambda o, w: o.add_external_initializers(["w"], [w.numpy()]),
    "external": lambda o, w: o.add_external_initializers(["w"], [w]),
}


@pytest.mark.parametrize("name", GIVEN)
@pytest.mark.parametrize("source", ["path", "bytes"])
def test_initializers_of_the_program(name, source, tmp_path):
    """onnxruntime takes the external ones alone from a model in memory whose file is not at hand."""
    path, data = apart(tmp_path)
    model = path if source == "path" or name == "one" else data

    def ran(module):
        options, value = module.SessionOptions(), module.OrtValue.ortvalue_from_numpy(W)
        GIVEN[name](options, value)
        return module.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(
            ["y"], {"x": X}
        )

    if name == "one that is unknown" and source == "bytes":
        kinds = [outcome(ran, module)[0] for module in MODULES]
        assert kinds == ["raises", "raises"]
    else:
        same(ran)


@pytest.mark.parametrize("wrong", [W.astype("f8"), W[:2], W[None]], ids=["dtype", "size", "rank"])
def test_initializers_that_do_not_fit(wrong, tmp_path):
    path, _ = apart(tmp_path)
    options = ours.SessionOptions()
    options.add_external_initializers(["w"], [ours.OrtValue.ortvalue_from_numpy(wrong)])
    with pytest.raises(
        ours.capi._pybind_state.InvalidGraph, match=r'initializer "w": expected a value f32\[3\], got'
    ):
        ours.InferenceSession(path, options)


def test_initializers_are_part_of_what_is_cached_and_no_part_of_artifacts(tmp_path):
    path, _ = apart(tmp_path)
    for factor in (1, 2, 1):
        options = ours.SessionOptions()
        options.add_initializer("w", ours.OrtValue.ortvalue_from_numpy(W * factor))
        (y,) = ours.InferenceSession(path, options).run(["y"], {"x": X})
        np.testing.assert_array_equal(y, X + W * factor)
    tallow.compile(path).save(tmp_path / "m.tallow")
    with pytest.raises(NotImplemented, match="the initializers w are constants of an artifact"):
        ours.InferenceSession(tmp_path / "m.tallow", options)


def test_models_of_onnxruntimes_own_format_are_refused(tmp_path):
    path = tmp_path / "m.ort"
    path.write_bytes(b"anything")
    with pytest.raises(NotImplemented, match="give the ONNX file"):
        ours.InferenceSession(path)


def test_external_data_of_bytes_is_refused_in_words(tmp_path):
    proto = operator("Add", [port("x", "FLOAT", [3])], [port("y", "FLOAT", [3])], {"w": np.ones(3, "f4")})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="w.bin")
    with pytest.raises(ours.capi._pybind_state.InvalidGraph, match="load it from its path"):
        ours.InferenceSession(proto.SerializeToString())
    assert issubclass(InvalidArgument, Exception) and not issubclass(InvalidArgument, RuntimeError)


# Profiling -----------------------------------------------------------------------------------------


def profiled(module, folder: Path):
    options = module.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / module.__name__)
    made = session(module, product(), options)
    started = made.get_profiling_start_time_ns()
    for _ in range(2):
        made.run(None, {"a": np.ones((2, 3), "f4"), "b": np.ones((3, 4), "f4")})
    name = made.end_profiling()
    return made, started, name


def test_profiling_writes_a_trace(tmp_path):
    for module in MODULES:
        made, started, name = profiled(module, tmp_path)
        assert name.startswith(str(tmp_path / module.__name__) + "_2") and name.endswith(".json")
        events = json.loads(Path(name).read_text())
        nodes = [e for e in events if e["cat"] == "Node"]
        assert len(nodes) == 2 and all(e["ph"] == "X" and e["dur"] >= 0 for e in events)
        assert all(e["name"].endswith("_kernel_time") and "op_name" in e["args"] for e in nodes)
        assert [e["args"]["provider"] for e in nodes] == ["CPUExecutionProvider"] * 2
        assert sum(e["name"] == "model_run" for e in events) == 2
        assert started > 0 and made.end_profiling() == ""


def test_profiling_of_a_bound_run(tmp_path):
    options = with_options(enable_profiling=True, profile_file_prefix=str(tmp_path / "p"))
    made, memory = session(ours, product(), options), np.zeros((1, 1), "f4")
    binding = made.io_binding()
    for name in "ab":
        binding.bind_cpu_input(name, np.full((1, 1), 3, "f4"))
    binding.bind_output("c", "cpu", 0, np.float32, (1, 1), memory.ctypes.data)
    made.run_with_iobinding(binding)
    assert memory[0, 0] == 9 and Path(made.end_profiling()).is_file()


def test_a_forgotten_trace_is_written(tmp_path):
    options = with_options(enable_profiling=True, profile_file_prefix=str(tmp_path / "p"))
    made = session(ours, product(), options)
    del made
    gc.collect()
    assert len(list(tmp_path.glob("p_*.json"))) == 1


def test_without_profiling_there_is_no_trace():
    same(lambda module: [session(module, sums()).end_profiling(), module.__name__ == ""])
    assert session(ours, sums()).get_profiling_start_time_ns() == 0
