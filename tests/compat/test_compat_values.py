"""OrtValue, OrtDevice and IOBinding beside onnxruntime's."""

from __future__ import annotations

import weakref

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from compat_support import operator, outcome, port, product, same, session
from onnx import TensorProto, helper

import tallow.compat.onnxruntime as ours
from tallow.compat.onnxruntime.transformers.io_binding_helper import TypeHelper

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
METHODS = (
    *("shape", "data_type", "element_type", "device_name", "is_tensor", "is_sparse_tensor"),
    *("is_tensor_sequence", "has_value", "tensor_size_in_bytes", "numpy", "__dlpack_device__"),
)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_values_of_arrays(dtype):
    array = np.ones((2, 3), dtype)

    def told(module):
        value = module.OrtValue.ortvalue_from_numpy(array)
        return [tuple(d) if isinstance(d := getattr(value, name)(), tuple) else d for name in METHODS]

    same(told)


def test_a_value_is_the_array():
    array = A.copy()
    value = ours.OrtValue.ortvalue_from_numpy(array)
    assert np.shares_memory(value.numpy(), array) and value.data_ptr() == array.ctypes.data
    value.update_inplace(np.full((2, 3), 7, "f4"))
    assert (array == 7).all()
    assert np.shares_memory(np.from_dlpack(value), array) and np.shares_memory(np.asarray(value), array)
    assert np.array(value, dtype="f8").dtype == np.float64


def test_a_capsule_is_the_array():
    array = A.copy()
    value = ours.OrtValue.from_dlpack(array.__dlpack__())
    value.update_inplace(np.full((2, 3), 7, "f4"))
    assert (array == 7).all()
    references = weakref.ref(array)
    del array
    assert references() is not None and (value.numpy() == 7).all()
    del value
    assert references() is None


ACTIONS = {
    "transposed": lambda v: v.ortvalue_from_numpy(A.T).numpy(),
    "texts": lambda v: v.ortvalue_from_numpy(np.array(["a"])),
    "a list": lambda v: v.ortvalue_from_numpy([1, 2]),
    "on a graphics card": lambda v: v.ortvalue_from_numpy(A, "cuda", 0),
    "on nothing": lambda v: v.ortvalue_from_numpy(A, "foo", 0),
    "shape and type": lambda v: [
        v.ortvalue_from_shape_and_type([2, 3], np.float32).shape(),
        v.ortvalue_from_shape_and_type((2,), np.int64, "cpu", 0).data_type(),
        v.ortvalue_from_shape_and_type((2,), TensorProto.BFLOAT16).data_type(),
        v.ortvalue_from_shape_and_type((2,), np.dtype("f2")).element_type(),
    ],
    "bits of another type": lambda v: v.ortvalue_from_numpy_with_onnx_type(
        np.zeros(3, np.uint16), TensorProto.BFLOAT16
    ).data_type(),
    "of a negative size": lambda v: v.ortvalue_from_shape_and_type([-1, 3], np.float32),
    "of half a size": lambda v: v.ortvalue_from_shape_and_type([0.5], np.float32),
    "memory of texts": lambda v: v.ortvalue_from_shape_and_type([2], TensorProto.STRING),
    "of a value": lambda v: v(v.ortvalue_from_numpy(A)._ortvalue, A).numpy(),
    "of an array": lambda v: v(A),
    "what it is made from": lambda v: v.ortvalue_from_numpy(A)._numpy_obj is A,
    "from dlpack": lambda v: v.from_dlpack(np.arange(3.0)).numpy(),
    "from a capsule": lambda v: v.from_dlpack(np.arange(3.0).__dlpack__()).numpy(),
    "from no dlpack": lambda v: v.from_dlpack(3),
    "update by a list": lambda v: v.ortvalue_from_numpy(A.copy()).update_inplace([1]),
    "update by another size": lambda v: v.ortvalue_from_numpy(A.copy()).update_inplace(
        np.zeros((3, 3), "f4")
    ),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_making_and_updating(name):
    same(lambda module: ACTIONS[name](module.OrtValue))


def test_copies_between_values():
    """onnxruntime's copy_tensors wants a device."""

    def copied(module):
        source, target = (module.OrtValue.ortvalue_from_numpy(a.copy()) for a in (A, A * 0))
        target.update_inplace(source)
        return target.numpy()

    same(copied)
    source, target = (ours.OrtValue.ortvalue_from_numpy(a.copy()) for a in (A, A * 0))
    ours.copy_tensors([source], [target])
    np.testing.assert_array_equal(target.numpy(), A)


def test_bfloat16_is_at_hand():
    """onnxruntime has no numpy type for it."""
    value = ours.OrtValue.ortvalue_from_numpy_with_onnx_type(np.array([0x3F80], np.uint16), 16)
    assert value.numpy().dtype == ml_dtypes.bfloat16 and value.numpy()[0] == 1
    assert (
        outcome(lambda module: module.OrtValue.ortvalue_from_numpy_with_onnx_type(A, 16), ours)[0] == "raises"
    )


def test_devices():
    def told(module):
        made = [module.OrtDevice.make(name, 1) for name in ("cpu", "cuda")]
        return [[d.device_id(), d.device_type(), d.device_vendor_id(), d.device_mem_type()] for d in made]

    same(told)
    same(lambda module: module.OrtDevice.make("toaster", 0))
    same(lambda module: module.OrtDevice.make("cpu", "0"))
    same(lambda module: module.OrtDevice(module.OrtDevice.make("cuda", 2)._get_c_device()).device_id())


def test_devices_by_numbers():
    names = ("cpu", "cuda", "gpu", "fpga", "npu", "cann", "dml", "webgpu", "default_memory")
    same(lambda module: [getattr(state(module).OrtDevice, name)() for name in names])
    same(lambda module: [state(module).OrtDevice(*parts).device_id() for parts in ((0, 0, 3), (0, 0, 1, 4))])
    same(lambda module: state(module).OrtDevice(0, 0))


def state(module):
    return module.capi._pybind_state


ARENAS = {
    "four numbers": lambda m: m.OrtArenaCfg(5, -1, 7, -1),
    "a dictionary": lambda m: m.OrtArenaCfg({"max_mem": 5, "initial_growth_chunk_size_bytes": 3}),
    "two numbers": lambda m: m.OrtArenaCfg(0, -1),
    "another dictionary": lambda m: m.OrtArenaCfg({"colour": 5}),
}


@pytest.mark.parametrize("name", ARENAS)
def test_settings_of_an_arena(name):
    def told(module):
        made = ARENAS[name](module)
        return (
            made.max_mem,
            made.arena_extend_strategy,
            made.initial_chunk_size_bytes,
            made.max_dead_bytes_per_chunk,
        )

    same(told)


def memory_info(module):
    return module.OrtMemoryInfo(
        "Cpu", module.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, module.OrtMemType.DEFAULT
    )


def test_places_in_memory():
    same(
        lambda m: [
            getattr(memory_info(m), name) for name in ("name", "device_id", "mem_type", "allocator_type")
        ]
    )


def test_allocators_are_said(heard):
    """What they hold is the same without them."""
    ours.create_and_register_allocator(memory_info(ours), None)
    ours.create_and_register_allocator_v2("CPUExecutionProvider", memory_info(ours), {}, None)
    assert [line.partition("(")[0] for line in heard] == [
        "cannot honour create_and_register_allocator",
        "cannot honour create_and_register_allocator_v2",
    ]


# Runs ----------------------------------------------------------------------------------------------


def test_run_with_ort_values():
    def ran(module, wanted=("c",)):
        value = module.OrtValue.ortvalue_from_numpy
        results = session(module, product()).run_with_ort_values(wanted, {"a": value(A), "b": value(B)})
        return [(r.data_type(), r.shape(), r.numpy()) for r in results]

    same(ran)
    same(lambda module: ran(module, None))
    same(lambda module: session(module, product()).run_with_ort_values(None, {"a": A, "b": B}))
    same(
        lambda module: session(module, product()).run(
            None, {"a": module.OrtValue.ortvalue_from_numpy(A), "b": B}
        )
    )


def in_a_row(module, *arrays):
    made = state(module).OrtValueVector()
    made.reserve(len(arrays))
    for array in arrays:
        made.push_back(module.OrtValue.ortvalue_from_numpy(array)._ortvalue)
    made.shrink_to_fit()
    return made


def test_values_in_a_row():
    def told(module):
        row = in_a_row(module, A, B)
        row.push_back(np.arange(3.0).__dlpack__())
        return [
            *(len(row), row[0].shape(), [value.data_type() for value in row], row.element_type_at(1)),
            *(len(row.to_dlpacks(None)), [value.shape() for value in map(module.OrtValue, row)]),
            *(type(row.dlpack_at(0)).__name__, row.to_dlpacks(lambda capsule: type(capsule).__name__)),
        ]

    same(told)


def test_run_with_rows():
    def ran(module, names=("a", "b"), filled=False):
        made, results = session(module, product()), state(module).OrtValueVector()
        if filled:
            results = in_a_row(module, np.zeros((2, 2), "f4"))
        devices = [module.OrtDevice.make("cpu", 0)._get_c_device()]
        row = in_a_row(module, A, B)
        made.run_with_ortvaluevector(module.RunOptions(), list(names), row, ["c"], results, devices)
        return [value.numpy() for value in results]

    same(ran)
    same(lambda module: ran(module, filled=True))


def test_rows_of_another_length():
    made, results = session(ours, product()), in_a_row(ours, A, A)
    with pytest.raises(state(ours).InvalidArgument, match="2 values for 1 results"):
        made.run_with_ortvaluevector(None, ["a", "b"], in_a_row(ours, A, B), ["c"], results, [])


def test_sequences_as_values():
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    proto = operator("SplitToSequence", [port("x", "FLOAT", ["n"])], [port("y", kind)])

    def value(module):
        given = {"x": module.OrtValue.ortvalue_from_numpy(np.ones(2, "f4"))}
        return session(module, proto).run_with_ort_values(None, given)[0]

    same(
        lambda module: [
            value(module).is_tensor(),
            value(module).is_tensor_sequence(),
            value(module).data_type(),
        ]
    )
    same(lambda module: value(module).numpy())
    same(lambda module: value(module).shape())


class Bound:
    """A binding of the product's inputs, and what a run of it gives."""

    def __init__(self, module):
        self.session = session(module, product())
        self.binding = self.session.io_binding()
        self.binding.bind_cpu_input("a", A)
        self.binding.bind_input("b", "cpu", 0, np.float32, B.shape, B.ctypes.data)

    def run(self):
        self.session.run_with_iobinding(self.binding)
        values = [v.numpy() for v in self.binding.get_outputs()]
        return values, self.binding.copy_outputs_to_cpu()


def to_memory(module, dtype, shape):
    bound, memory = Bound(module), np.zeros(shape, dtype)
    bound.binding.bind_output("c", "cpu", 0, dtype, memory.shape, memory.ctypes.data)
    return bound.run(), memory


def to_own(module):
    bound = Bound(module)
    bound.binding.bind_output("c")
    return bound.run()


def to_value(module):
    bound, memory = Bound(module), np.zeros((2, 2), "f4")
    bound.binding.bind_ortvalue_output("c", module.OrtValue.ortvalue_from_numpy(memory))
    return bound.run(), memory


def from_values(module):
    bound = Bound(module)
    bound.binding.clear_binding_inputs()
    for name, array in (("a", A), ("b", B)):
        bound.binding.bind_ortvalue_input(name, module.OrtValue.ortvalue_from_numpy(array))
    bound.binding.bind_output("c", "cpu")
    bound.binding.synchronize_inputs()
    bound.binding.synchronize_outputs()
    return bound.run()


def cleared(module):
    bound = Bound(module)
    bound.binding.bind_output("c")
    bound.run()
    bound.binding.clear_binding_outputs()
    return bound.binding.get_outputs()


def over_its_input(module):
    """A result into the memory of an input of its shape."""
    made, memory = session(module, product()), np.arange(4, dtype="f4").reshape(2, 2)
    binding = made.io_binding()
    binding.bind_cpu_input("a", memory)
    binding.bind_cpu_input("b", np.array([[1, 1], [0, 1]], "f4"))
    binding.bind_output("c", "cpu", 0, np.float32, (2, 2), memory.ctypes.data)
    made.run_with_iobinding(binding)
    return memory.shape


BINDINGS = {
    "own memory": to_own,
    "given memory": lambda m: to_memory(m, np.float32, (2, 2)),
    "memory of another shape": lambda m: to_memory(m, np.float32, (2, 5)),
    "memory of another type": lambda m: to_memory(m, np.float64, (2, 2)),
    "a value": to_value,
    "inputs from values": from_values,
    "cleared": cleared,
    "no output": lambda m: Bound(m).run(),
    "an input of another name": lambda m: Bound(m).binding.bind_cpu_input("q", A),
    "a list": lambda m: Bound(m).binding.bind_cpu_input("a", [[1.0]]),
    "memory without a shape": lambda m: Bound(m).binding.bind_output("c", "cpu", 0, np.float32, None, 5),
    "another session": lambda m: session(m, product()).run_with_iobinding(Bound(m).binding),
    "memory of an input": over_its_input,
}


@pytest.mark.parametrize("name", BINDINGS)
def test_bindings(name):
    same(BINDINGS[name])


def test_a_result_over_its_input_is_right():
    """onnxruntime reads what it has written."""
    made, memory = session(ours, product()), np.arange(4, dtype="f4").reshape(2, 2)
    wanted = memory @ memory
    binding = made.io_binding()
    for name in "ab":
        binding.bind_cpu_input(name, memory)
    binding.bind_output("c", "cpu", 0, np.float32, (2, 2), memory.ctypes.data)
    made.run_with_iobinding(binding)
    np.testing.assert_array_equal(memory, wanted)


def test_bound_arrays_are_read_at_the_run():
    def twice(module):
        bound, given = Bound(module), A.copy()
        bound.binding.bind_cpu_input("a", given)
        bound.binding.bind_output("c")
        _, first = bound.run()
        given[:] = 1
        return first, bound.run()

    same(twice)


def test_a_wrong_type_is_told_at_the_run():
    def ran(module):
        bound = Bound(module)
        bound.binding.bind_cpu_input("a", A.astype("f8"))
        bound.binding.bind_output("c")
        return bound.run()

    assert same(ran) == ("raises", "RuntimeError")


def test_memory_of_a_device_is_refused_in_words():
    with pytest.raises(RuntimeError, match="lie in the host's memory"):
        Bound(ours).binding.bind_output("c", "cuda", 0)


# What is there only to refuse ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        lambda: ours.SparseTensor.sparse_coo_from_numpy([2], A, A, None),
        lambda: ours.LoraAdapter(),
        lambda: ours.LoraAdapter.Load("a"),
        lambda: ours.ModelCompiler(ours.SessionOptions(), "m.onnx"),
        lambda: ours.register_execution_provider_library("a", "b.so"),
        lambda: ours.unregister_execution_provider_library("a"),
    ],
)
def test_refusals(action):
    with pytest.raises(ours.capi._pybind_state.NotImplemented, match=r"NOT_IMPLEMENTED : \S+.* \w+"):
        action()


def test_sparse_values_are_refused():
    value = ours.OrtValue.ortvalue_from_numpy(A)
    for action in (value.as_sparse_tensor, lambda: ours.OrtValue.ort_value_from_sparse_tensor(None)):
        with pytest.raises(RuntimeError, match="sparse"):
            action()


def test_types_for_other_libraries():
    made = session(ours, product())
    assert TypeHelper.get_input_type(made, "a") == TypeHelper.get_output_type(made, "c") == "tensor(float)"
    assert TypeHelper.ort_type_to_numpy_type("tensor(int64)") is np.int64
    assert TypeHelper.ort_type_to_numpy_type("tensor(bool)") is bool
    assert TypeHelper.get_io_onnx_type_map(made) == {"a": 1, "b": 1, "c": 1}
    for wrong in (
        lambda: TypeHelper.ort_type_to_numpy_type("tensor(x)"),
        lambda: TypeHelper.get_input_type(made, "q"),
    ):
        with pytest.raises(ValueError, match="not found"):
            wrong()


def test_every_name_of_the_module_is_known_or_absent_on_purpose():
    """Names of onnxruntime that are not here concern its plugins, its files and its servers."""
    public = {n for n in dir(onnxruntime) if not n.startswith("_") and hasattr(onnxruntime, n)}
    public -= {
        "contextlib",
        "capi",
        "onnxruntime_validation",
        "import_capi_exception",
    }
    missing = {n for n in public if n not in dir(ours)}
    assert all(
        n.startswith(
            (
                "ModelPackage",
                "OrtEp",
                "OrtHardware",
                "OrtCompile",
                "OrtExecution",
                "OrtExternal",
                "OrtDeviceMemory",
                "OrtMemoryInfoDevice",
                "OrtSync",
                "is_preload",
                "quantization",
                "tools",
                "transformers",
                "datasets",
                "backend",
            )
        )
        for n in missing
    ), missing
