"""NVRTC through ctypes: CUDA C to machine code on machines without a GPU."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path

import pytest


class Nvrtc:
    """The compiler of the wheels `nvidia-cuda-nvrtc` and `nvidia-cuda-runtime` (for its headers)."""

    def __init__(self, library: Path, headers: Path):
        self.library, self.headers = ctypes.CDLL(str(library)), headers

    def compile(self, source: str, arch: str) -> tuple[bytes, str]:
        """Machine code, and what the assembler says of registers and memory; AssertionError with the log."""
        program, text = ctypes.c_void_p(), source.encode()
        assert not self.library.nvrtcCreateProgram(ctypes.byref(program), text, b"k.cu", 0, None, None)
        words = [
            f"--gpu-architecture={arch}",
            f"--include-path={self.headers}",
            "--fmad=false",
            "--ptxas-options=-v",
        ]
        options = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        failed = self.library.nvrtcCompileProgram(program, len(words), options)
        log = self._text("ProgramLog", program)
        assert not failed, f"{log}\n{source}"
        code = self._bytes("CUBIN", program)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return code, log

    def _bytes(self, what: str, program) -> bytes:
        size = ctypes.c_size_t()
        assert not self.library[f"nvrtcGet{what}Size"](program, ctypes.byref(size))
        memory = ctypes.create_string_buffer(size.value)
        assert not self.library[f"nvrtcGet{what}"](program, memory)
        return memory.raw

    def _text(self, what: str, program) -> str:
        return self._bytes(what, program).rstrip(b"\0").decode()


@functools.cache
def nvrtc() -> Nvrtc:
    """The compiler, or a skip that says what is missing."""
    nvidia = pytest.importorskip("nvidia", reason="pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")
    for folder in map(Path, nvidia.__path__):
        libraries = [f for f in sorted(folder.glob("*/lib/libnvrtc.so*")) if "builtins" not in f.name]
        headers = sorted(folder.glob("*/include/cuda_fp16.h"))
        if libraries and headers:
            return Nvrtc(libraries[0], headers[0].parent)
    pytest.skip("no libnvrtc with cuda_fp16.h: pip install nvidia-cuda-nvrtc nvidia-cuda-runtime")


def usage(log: str) -> dict[str, int]:
    """Registers of a thread; bytes spilled to local memory, of shared memory and of the stack, as the assembler says."""
    found = {name: re.search(rf"(\d+) {words}", log) for name, words in WORDS.items()}
    return {name: int(match[1]) if match else 0 for name, match in found.items()}


WORDS = {
    "registers": "registers",
    "spilled": "bytes spill stores",
    "shared": "bytes smem",
    "stack": "bytes stack frame",
}
