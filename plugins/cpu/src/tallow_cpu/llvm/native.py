"""LLVM through llvmlite: IR text in, object code or assembly out, on several threads at once.

llvmlite guards every call with one lock. LLVM itself needs none between contexts, so the two calls that
take time go to the library's functions without it: each thread has its own context and machine.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from dataclasses import dataclass

from tallow.errors import CompileError, Unavailable

try:
    import llvmlite
    import llvmlite.binding as llvm
    from llvmlite.binding import ffi
except ImportError:  # opening compiled models needs no compiler
    llvmlite = None


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What LLVM must know of a target."""

    triple: str
    cpu: str
    features: tuple[str, ...]
    level: int = 1  # of optimisation


def version() -> str:
    """llvmlite's version, "none" without it."""
    return llvmlite.__version__ if llvmlite else "none"


_lock = threading.Lock()


@functools.cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def require() -> None:
    """Unavailable when llvmlite is not installed."""
    if llvmlite is None:
        raise Unavailable("compiling for the CPU needs llvmlite: pip install 'tallow-cpu[compiler]'")
    with _lock:
        _initialise()


class Compiler:
    """A context and a machine of one thread."""

    def __init__(self, spec: MachineSpec):
        require()
        self.context = llvm.create_context()
        features = ",".join(f"+{name}" for name in spec.features)
        found = llvm.Target.from_triple(spec.triple)
        self.machine = found.create_target_machine(
            cpu=spec.cpu, features=features, opt=2, reloc="pic", codemodel="small"
        )
        self.builder = llvm.create_pass_builder(self.machine, _options(spec.level))

    def object(self, text: str) -> bytes:
        """Object code of IR text; CompileError with the numbered lines around a fault."""
        return self._emit(self._optimised(text), 1)

    def assembly(self, text: str) -> str:
        return self._emit(self._optimised(text), 0).decode()

    def _optimised(self, text: str):
        try:
            module = llvm.parse_assembly(text, self.context)
            module.verify()
        except RuntimeError as error:
            raise CompileError(f"LLVM refuses a kernel: {error}\n{_numbered(text, str(error))}") from None
        manager = self.builder.getModulePassManager()
        _unlocked("LLVMPY_RunNewModulePassManager")(manager, module, self.builder)
        return module

    def _emit(self, module, binary: int) -> bytes:
        with ffi.OutputString() as problem:
            memory = _unlocked("LLVMPY_TargetMachineEmitToMemory")(self.machine, module, binary, problem)
            if not memory:
                raise CompileError(f"LLVM makes no code for {module.triple or 'this target'}: {problem}")
        try:
            return ctypes.string_at(
                ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory)
            )
        finally:
            ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


def _unlocked(name: str):
    """A function of LLVM's library without llvmlite's lock, where this version lets one have it."""
    function = getattr(ffi.lib, name)
    return getattr(function, "_cfn", function)


def _options(level: int):
    """No automatic vectors and no unrolling: kernels say both outright."""
    options = llvm.create_pipeline_tuning_options(level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    return options


def _numbered(text: str, error: str) -> str:
    lines = text.splitlines()
    digits = [int(part) for part in error.replace(":", " ").split() if part.isdigit()]
    at = digits[0] if digits and digits[0] <= len(lines) else 1
    first = max(0, at - 4)
    return "\n".join(f"{n + 1:5} {lines[n]}" for n in range(first, min(len(lines), at + 3)))
