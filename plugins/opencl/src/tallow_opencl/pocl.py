"""PoCL on processors that are younger than its LLVM.

The PoCL of the `pocl-binary-distribution` wheel (3.0, with LLVM 14) has no setting for the processor it
compiles for. Where its LLVM does not know the host it says "generic", which its clang then refuses
("unknown target CPU 'generic'", github.com/pocl/pocl/issues/1049). Zen 4 it takes for a Zen 3, and then fails at
vectors of 16 floats, because its library of functions is chosen by the instructions that are there. In both
cases, and no others, the function of that library which names the host is made to name an older processor with
the host's vector instructions.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from pathlib import Path

import numpy as np

VERSION = "PoCL 3.0"  # of the wheel, as its platform says
NAMES_HOST = "_ZN4llvm3sys14getHostCPUNameEv"  # llvm::StringRef llvm::sys::getHostCPUName()
KNOWN = "POclReleaseDevice"  # any exported function: where it lies tells where the library lies
# vector instructions -> a processor of LLVM 14 that has them, the best first
PROCESSORS = {
    ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"): "skylake-avx512",
    ("avx2", "fma", "f16c", "bmi2"): "haswell",
    ("avx",): "sandybridge",
    (): "x86-64",
}
_SYMBOL = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_kept: list[object] = []


def library() -> Path | None:
    """The wheel's library, if it is installed."""
    import pyopencl

    return next(iter(sorted((Path(pyopencl.__file__).parent / ".libs").glob("libpocl*.so*"))), None)


def teach_host(force: str | None = None) -> str | None:
    """Name a processor that PoCL's LLVM knows, where it does not know this one; before the first platform is
    asked for. Returns the name, or None when nothing had to be done. `force` names one in any case. OSError
    where the system lets no code be changed."""
    path = library() if platform.machine() == "x86_64" else None
    if path is None:
        return None
    function = _address(path)
    if function is None:
        return None
    known = ctypes.CFUNCTYPE(ctypes.c_char_p)(function)()  # the text that the result points to
    mistaken = known.startswith(b"znver") and _processor() == "skylake-avx512"
    if force is None and not known.startswith(b"generic") and not mistaken:
        return None
    name = force or _processor()
    _replace(function, name)
    return name


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        flags = set(next(line for line in file if line.startswith("flags")).split())
    return next(name for needed, name in PROCESSORS.items() if flags.issuperset(needed))


def _address(path: Path) -> int | None:
    """Where the function lies in this process, by the library's own symbol table; None without one."""
    data = path.read_bytes()
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + size * n) for n in range(count)]
    table = next((s for s in sections if s[1] == 2), None)  # SHT_SYMTAB
    if table is None:
        return None
    texts = sections[table[6]]
    strings = data[texts[4] : texts[4] + texts[5]]
    symbols = np.frombuffer(data, _SYMBOL, table[5] // _SYMBOL.itemsize, table[4])

    def value(name: str) -> int | None:
        place = strings.find(b"\0" + name.encode() + b"\0") + 1
        found = symbols[symbols["name"] == place] if place else ()
        return int(found[0]["value"]) if len(found) else None

    wanted, known = value(NAMES_HOST), value(KNOWN)
    if wanted is None or known is None:
        return None
    loaded = ctypes.CDLL(str(path))
    _kept.append(loaded)
    return ctypes.cast(getattr(loaded, KNOWN), ctypes.c_void_p).value - known + wanted


def _replace(function: int, name: str) -> None:
    """Overwrite the function by one that returns a text: pointer in rax, length in rdx."""
    text = ctypes.create_string_buffer(name.encode())
    _kept.append(text)
    code = (
        b"\x48\xb8"
        + struct.pack("<Q", ctypes.addressof(text))
        + b"\xba"
        + struct.pack("<I", len(name))
        + b"\xc3"
    )
    page = mmap.PAGESIZE
    first = function // page * page
    length = -(-(function + len(code) - first) // page) * page
    libc = ctypes.CDLL(None, use_errno=True)
    protect = libc.mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if protect(first, length, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    ctypes.memmove(function, code, len(code))
    protect(first, length, mmap.PROT_READ | mmap.PROT_EXEC)
