"""The linker, the cache of compiled code, and opening code where there is no compiler."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cpu_support import BACKEND, HOST, Native, element_wise

from tallow import cache
from tallow.backend import Code
from tallow.dtype import f32
from tallow.errors import ArtifactError, CompileError, Unavailable
from tallow.kernel.build import call
from tallow_cpu import elf
from tallow_cpu.compile import machine_spec, runtime_blob, source_text
from tallow_cpu.llvm.native import Compiler

TWICE = element_wise("twice", lambda x: call("add", x, x), [f32], f32)
COSINE = element_wise("cosine", lambda x: call("cos", x), [f32], f32)
X = np.linspace(-3, 3, 37, dtype=np.float32)
PAGE_IR = """
@table = internal unnamed_addr constant [4 x double] [double 1.5, double 2.5, double 3.5, double 4.5], align 64
define double @pick(i64 %i) #0 {
 %p = getelementptr double, ptr @table, i64 %i
 %v = load double, ptr %p
 ret double %v
}
define double @outer(i64 %i) #0 {
 %v = call double @pick(i64 %i) #1
 %w = fadd double %v, 1.0
 ret double %w
}
attributes #0 = { nounwind noinline }
attributes #1 = { noinline }
"""


def objects(text: str, arch: str) -> bytes:
    return Compiler(machine_spec(BACKEND.target(arch))).object(text)


@pytest.mark.parametrize("arch", ["x86-64-v3", "aarch64-linux-gnu"])
@pytest.mark.parametrize("symbol", ["expf", "memcpy"])
def test_undefined_symbols_are_refused_by_name(arch, symbol):
    body = f"define float @K(float %x) {{\n %y = call float @{symbol}(float %x)\n ret float %y\n}}\n"
    text = f"{body}declare float @{symbol}(float)\n"
    with pytest.raises(CompileError, match=f"calls {symbol}, which"):
        elf.link(objects(text, arch), ["K"])


def test_absolute_addresses_are_refused():
    text = "define i64 @K() {\n ret i64 0\n}\n@place = constant ptr @K\n"
    with pytest.raises(CompileError, match="relocation type 1 against K .* not position-independent"):
        elf.link(objects(text, "x86-64-v3"), ["K"])


def test_what_is_not_an_object_is_refused():
    with pytest.raises(CompileError, match="64-bit ELF"):
        elf.link(b"MZ" + bytes(100), ["K"])
    other = bytearray(objects(PAGE_IR, "x86-64-v3"))
    struct.pack_into("<H", other, 18, 243)
    with pytest.raises(CompileError, match="ELF machine 243 .* expected x86-64"):
        elf.link(bytes(other), ["pick"])
    with pytest.raises(CompileError, match="lacks nothing_here"):
        elf.link(objects(PAGE_IR, "x86-64-v3"), ["pick", "nothing_here"])


def test_aarch64_relocations_reach_the_table():
    """adrp + add, followed by hand, lead to the constants; the call leads to its target."""
    linked = elf.link(objects(PAGE_IR, "aarch64-linux-gnu"), ["pick", "outer"])
    assert linked.align == 4096
    words = struct.unpack(f"<{len(linked.blob) // 4}I", linked.blob[: len(linked.blob) // 4 * 4])
    at = linked.entries["pick"] // 4
    page = next(i for i in range(at, at + 8) if words[i] & 0x9F000000 == 0x90000000)
    low = next(i for i in range(page, page + 8) if words[i] & 0x7F800000 == 0x11000000)
    distance = (words[page] >> 5 & 0x7FFFF) << 2 | words[page] >> 29 & 3
    place = (page * 4 // 4096 + distance) * 4096 + (words[low] >> 10 & 0xFFF)
    assert struct.unpack_from("<4d", linked.blob, place) == (1.5, 2.5, 3.5, 4.5)
    branch = next(i for i in range(linked.entries["outer"] // 4, len(words)) if words[i] >> 26 == 0b100101)
    offset = (words[branch] & 0x3FFFFFF ^ 0x2000000) - 0x2000000
    assert branch * 4 + offset * 4 == linked.entries["pick"]


@pytest.mark.parametrize(
    "arch", ["aarch64-linux-gnu", "neoverse-v1", "x86-64", "x86-64-v2", "x86-64-v3", "znver5"]
)
def test_every_target_compiles_anywhere(arch):
    code = BACKEND.compile([TWICE, COSINE], BACKEND.target(arch))
    assert len(code.blob) > 100 and set(code.entries) == {"twice", "cosine"}
    assert code.notes["machine"] == ("aarch64" if "x86" not in arch and "znver" not in arch else "x86_64")


def test_code_for_another_machine_is_refused():
    code = BACKEND.compile([TWICE], BACKEND.target("aarch64-linux-gnu"))
    with pytest.raises(ArtifactError, match="compiled for aarch64, and this machine is"):
        BACKEND.open("cpu").load(code)
    code = Code(
        code.blob,
        code.entries,
        code.support,
        {**code.notes, "machine": "x86_64", "features": "avx512f,quantum"},
    )
    with pytest.raises(ArtifactError, match="quantum, which this one lacks"):
        BACKEND.open("cpu").load(code)
    with pytest.raises(Unavailable, match="no CPU target '7': expected one of"):
        BACKEND.open("cpu:7")


# The cache ------------------------------------------------------------------------------------------


def files() -> list[Path]:
    return [f for f in cache.folder("cpu").rglob("*") if f.is_file()]


def test_damaged_entries_are_rebuilt(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path))
    first = BACKEND.compile([TWICE, COSINE], HOST)
    kept = {f: f.read_bytes() for f in files()}
    assert len(kept) == 3
    for number, (file, data) in enumerate(kept.items()):
        file.write_bytes([data[:-1], data[:40] + b"!" + data[41:], b""][number])
    second = BACKEND.compile([TWICE, COSINE], HOST)
    assert second == first
    assert {f: f.read_bytes() for f in files()} == kept


def test_the_cache_can_be_off_or_unwritable(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", "")
    assert cache.folder("cpu") is None and cache.load("cpu", "00") is None
    assert BACKEND.compile([TWICE], HOST).entries
    cache.trim("cpu", 0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("TALLOW_CACHE", str(blocked))
    assert BACKEND.compile([TWICE], HOST).entries


def test_the_cache_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path))
    for number in range(6):
        cache.store("cpu", f"{number:064}", bytes(1000))
        os.utime(cache.folder("cpu") / "00" / f"{number:064}", (number, number))
    cache.trim("cpu", 3000)
    assert [cache.load("cpu", f"{n:064}") is None for n in range(6)] == [True] * 4 + [False] * 2


def test_keys_differ_by_target(tmp_path, monkeypatch):
    monkeypatch.setenv("TALLOW_CACHE", str(tmp_path))
    BACKEND.compile([TWICE], BACKEND.target("x86-64-v3"))
    before = len(files())
    BACKEND.compile([TWICE], BACKEND.target("x86-64-v2"))
    assert len(files()) == before + 2


# Without a compiler ---------------------------------------------------------------------------------

OPENER = """
import pickle, sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llvmlite":
            raise ImportError("no llvmlite here")
sys.meta_path.insert(0, Missing())
import numpy as np
from tallow.backend import BoundStep, Code
from tallow.errors import Unavailable
from tallow_cpu.backend import CpuBackend
backend = CpuBackend()
blob, entries, support, notes = pickle.load(open(sys.argv[1], "rb"))
module = backend.open("cpu").load(Code(blob, entries, support, notes))
x, out = np.linspace(-3, 3, 37, dtype=np.float32), np.zeros(37, np.float32)
module.prepare([BoundStep("cosine", ((0, 0), (1, 0)), (37,), 1)], 2).run([x.ctypes.data, out.ctypes.data])
assert np.abs(out - np.cos(x)).max() < 1e-6
assert not any(name.startswith("llvmlite") for name in sys.modules)
try:
    backend.compile([], backend.target("x86-64"))
except Unavailable as error:
    assert "pip install 'tallow-cpu[compiler]'" in str(error)
else:
    raise SystemExit("compiled without a compiler")
"""


def test_code_opens_without_the_compiler(tmp_path):
    code = BACKEND.compile([COSINE], HOST)
    file = tmp_path / "code"
    file.write_bytes(pickle.dumps((code.blob, dict(code.entries), dict(code.support), dict(code.notes))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TALLOW_CACHE": ""}
    done = subprocess.run(
        [sys.executable, "-c", OPENER, str(file)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_blobs_hold_code_and_constants_only():
    """Nothing to relocate is left: a copy at any address gives the same results."""
    native = Native([COSINE])
    again = BACKEND.open("cpu").load(native.code)
    assert again.mapped.address != native.module.mapped.address
    np.testing.assert_array_equal(
        native.element_wise("cosine", X), Native([COSINE]).element_wise("cosine", X)
    )


def test_the_runtime_is_carried_in_the_code():
    code = BACKEND.compile([TWICE], HOST)
    assert code.support["runtime"] == runtime_blob(HOST)
    assert "call" not in source_text([TWICE], HOST, "assembly").split("K.body")[0]
