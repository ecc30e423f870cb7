"""Artifacts: saving and opening, what opening needs, and every reason for which a file is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import tallow
from tallow import artifact
from tallow.artifact import _signed
from tallow.builder import Builder
from tallow.errors import ArtifactError, Unavailable


@pytest.fixture
def graph(rng):
    b = Builder("small")
    x, y = b.input("x", "f32", ["batch", 6]), b.input("y", "f32", ["batch", 4])
    hidden = b.relu(b.matmul(x, b.constant(rng.standard_normal((6, 4)).astype("f4"))))
    return b.finish({"sum": b.add(hidden, y), "best": b.argmax(hidden, axis=1, keepdims=False, last=False)})


@pytest.fixture
def data(rng):
    return {"x": rng.standard_normal((3, 6)).astype("f4"), "y": rng.standard_normal((3, 4)).astype("f4")}


@pytest.fixture
def path(graph, tmp_path):
    return tallow.compile(graph).save(tmp_path / "m.tallow")


def header_of(path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_header(path, header: dict, body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def edit(path, change) -> None:
    """Change the manifest and sign it again, as another version of Tallow might have written it."""
    header, body = header_of(path)
    manifest = json.loads(header["__metadata__"]["tallow"])
    change(manifest)
    text = json.dumps(manifest)
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    digest = hashlib.sha256(_signed(text, entries)).hexdigest()
    write_header(path, {"__metadata__": {"tallow": text, "tallow.sha256": digest}, **entries}, body)


def flip(path, tensor: str) -> None:
    """Change the first byte of a tensor."""
    header, body = header_of(path)
    start = len(path.read_bytes()) - len(body) + header[tensor]["data_offsets"][0]
    content = bytearray(path.read_bytes())
    content[start] ^= 1
    path.write_bytes(content)


def refused(path, *messages, **options):
    with pytest.raises(ArtifactError) as caught:
        tallow.open(path, **options)
    for message in (path.name, *messages):
        assert message in str(caught.value)


def test_saving_and_opening(graph, data, path):
    exe = tallow.compile(graph)
    for again in (tallow.open(path), tallow.open(str(path), 1), tallow.open(path, thorough=True)):
        np.testing.assert_array_equal(again.run(data)["sum"], exe.run(data)["sum"])
        assert again.inputs == exe.inputs and again.outputs == exe.outputs
    with safe_open(path, "np") as file:  # the format is plain safetensors
        assert "code" in file.keys()
    with pytest.raises(ArtifactError, match="exists already"):
        exe.save(path)
    exe.save(path, force=True)


def test_saving_is_repeatable(graph, tmp_path):
    exe = tallow.compile(graph)
    assert exe.save(tmp_path / "a.tallow").read_bytes() == exe.save(tmp_path / "b.tallow").read_bytes()
    again = tallow.open(tmp_path / "a.tallow").save(tmp_path / "c.tallow")
    assert again.read_bytes() == (tmp_path / "a.tallow").read_bytes()


def test_bounds_are_saved(graph, data, tmp_path):
    path = tallow.compile(graph, dims={"batch": (1, 2)}).save(tmp_path / "m.tallow")
    with pytest.raises(tallow.InputError, match=r"size batch = 3 is outside 1\.\.2"):
        tallow.open(path).run(data)


def test_opening_needs_neither_importers_nor_compiler(graph, data, path, tmp_path):
    np.savez(tmp_path / "data.npz", **data)
    program = f"""
import sys
for name in ("onnx", "llvmlite", "tallow_importers"):
    sys.modules[name] = None
import numpy, tallow
print(tallow.open({str(path)!r}).run(dict(numpy.load({str(tmp_path / "data.npz")!r})))["sum"].sum())
"""
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    np.testing.assert_allclose(float(printed), tallow.compile(graph).run(data)["sum"].sum(), rtol=1e-6)


def test_opening_without_its_backend_says_what_to_install(path):
    program = f"import tallow; tallow.open({str(path)!r})"
    environment = {**os.environ, "TALLOW_PLUGINS": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "Unavailable: there is no backend 'cpu' (no backend is installed)" in done.stderr
    assert "pip install tallow-cpu" in done.stderr


# Refusals -----------------------------------------------------------------------------------------


def test_files_that_are_none(tmp_path):
    bad = tmp_path / "bad.tallow"
    with pytest.raises(ArtifactError, match="cannot read .*No such file"):
        tallow.open(bad)
    for content in (b"", b"x", b"\xff" * 64, bytes(8), (3).to_bytes(8, "little") + b"[1]"):
        bad.write_bytes(content)
        refused(bad, "not a .tallow file")
    (tmp_path / "folder.tallow").mkdir()
    with pytest.raises(ArtifactError, match="cannot read"):
        tallow.open(tmp_path / "folder.tallow")


def test_truncated_files(path):
    good = path.read_bytes()
    for length in (50, int.from_bytes(good[:8], "little") + 20, len(good) - 1):
        path.write_bytes(good[:length])
        refused(path, "truncated")


def test_other_safetensors_files(tmp_path):
    save_file({"w": np.ones(3, "f4")}, tmp_path / "w.tallow")
    refused(tmp_path / "w.tallow", "a safetensors file without a Tallow manifest")


def test_a_changed_manifest(path):
    path.write_bytes(path.read_bytes().replace(b"small", b"smell", 1))
    refused(path, "its manifest is damaged: compile the model again")


def test_tensors_that_were_moved(path):
    header, body = header_of(path)
    names = [n for n in header if n.startswith("constant.")]
    header[names[0]]["data_offsets"] = header["code"]["data_offsets"]
    write_header(path, header, body)
    refused(path, "its manifest is damaged")


@pytest.mark.parametrize("tensor", ["code", "support.runtime"])
def test_changed_machine_code(path, tensor):
    flip(path, tensor)
    refused(path, "its machine code is damaged: compile the model again")


def test_changed_constants_are_found_when_asked_for(path):
    header, _ = header_of(path)
    name = next(n for n in header if n.startswith("constant."))
    flip(path, name)
    tallow.open(path)
    refused(path, f"tensor {name} is damaged", thorough=True)


def test_another_format(path):
    edit(path, lambda manifest: manifest.update(format=99))
    refused(path, "it has format 99, this Tallow reads", "compile the model again")


def test_code_for_several_targets_or_none(path):
    def twice(manifest):
        manifest["targets"].append(json.loads(json.dumps(manifest["targets"][0])))
        manifest["targets"][1]["target"]["arch"] = "other"

    edit(path, twice)
    refused(
        path, "it holds code for cpu:x86-64", ", cpu:other: this Tallow opens files that hold code for one"
    )
    edit(path, lambda manifest: manifest["targets"].clear())
    refused(path, "it holds code for no target")


def change_note(name: str, value: str):
    return lambda manifest: manifest["targets"][0]["notes"].update({name: value})


@pytest.mark.parametrize(
    "note,value,message",
    [
        ("machine", "riscv64", "compiled for riscv64, and this machine is"),
        ("features", "sse2,amx-tile9", "compiled for a CPU with amx-tile9, which this one lacks"),
        ("interface", "0", "compiled by a tallow-cpu with interface 0, and this one has"),
    ],
)
def test_code_that_does_not_fit_this_machine(path, note, value, message):
    edit(path, change_note(note, value))
    with pytest.raises(ArtifactError, match=message):
        tallow.open(path)


def test_code_of_a_backend_that_is_not_here(path):
    edit(path, lambda manifest: manifest["targets"][0]["target"].update(backend="vulkan"))
    with pytest.raises(Unavailable, match="there is no backend 'vulkan'.*pip install tallow-vulkan"):
        tallow.open(path)


def test_code_cross_compiled_for_another_machine(graph):
    arm = os.uname().machine == "aarch64"
    target, machine = ("x86-64", "x86_64") if arm else ("aarch64-linux-gnu", "aarch64")
    with pytest.raises(
        ArtifactError, match=f"compiled for {machine}, and this machine is {os.uname().machine}"
    ):
        tallow.compile(graph, f"cpu:{target}")


def test_constants_are_packed_piece_by_piece(tmp_path, rng, monkeypatch):
    """Arrays of any strides, and those that start anywhere, are written as what they hold."""
    monkeypatch.setattr(artifact, "PIECE", 1000)
    raw = rng.integers(0, 255, 4 * 1201, np.uint8)
    arrays = {
        "transposed": rng.standard_normal((3, 40, 50)).astype("f4").transpose(2, 0, 1),
        "one at a time": rng.standard_normal((1, 2, 600)).astype("f4")[:, :, ::2],
        "anywhere": raw[1:-3].view("f4").reshape(40, 30),
        "number": np.array(5, "i8"),
        "nothing": np.zeros((0, 3), "f4"),
        "strings": np.array([["a", "b"]], object),
    }
    given = tallow.compile(Builder("empty").finish({})).compiled
    path = artifact.write(replace(given, constants=arrays), tmp_path / "m.tallow")
    found = artifact.read(path, thorough=True).constants
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(array).tobytes() or (
            array.dtype == object and found[name].tolist() == array.tolist()
        )
        assert array.dtype == object or found[name].ctypes.data % 64 == 0 or not array.size


def test_packing_for_a_file_takes_little_memory(tmp_path):
    packed = np.zeros((4096, 4096), np.float32).T
    given = tallow.compile(Builder("empty").finish({})).compiled
    tracemalloc.start()
    artifact.write(replace(given, constants={"w": packed}), tmp_path / "m.tallow")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < packed.nbytes / 2


def test_what_runs_has_its_constants_aligned(rng):
    raw = rng.integers(0, 100, 4 * 1201, np.uint8)
    for array in (raw[1:-3].view("f4"), raw[5:45].view("f4"), raw[:0].view("f4")):
        b = Builder()
        run = tallow.compile(b.finish({"y": b.add(b.input("x", "f32", array.shape), b.constant(array))}))
        for found in run.compiled.constants.values():
            assert found.flags.aligned and (found.nbytes < 64 or found.ctypes.data % 64 == 0)
        assert len(run.compiled.constants) == 1 or not array.size
        np.testing.assert_array_equal(run(np.zeros(array.shape, "f4")), array)
