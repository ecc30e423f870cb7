"""Printer of kernels as C for devices: one thread runs one iteration of the grid loop.

Without vectors, kernels are printed as written: most devices' compilers have vectors of their own, so
`vector` loops are plain loops. With them, the kernel is vectorised first and printed in the dialect's
vector types, for devices that are processors. Build OpenCL programs with correctly rounded division
(`-cl-fp32-correctly-rounded-divide-sqrt`) where the device offers it, and never with relaxed mathematics.
"""

from __future__ import annotations

from tallow.cstyle.dialects import Dialect
from tallow.cstyle.functions import NATIVE
from tallow.cstyle.scalars import ScalarPrinter, group_size
from tallow.cstyle.vectors import VectorPrinter
from tallow.errors import CompileError
from tallow.kernel.expand import expand
from tallow.kernel.grammar import Kernel
from tallow.kernel.unroll import unroll
from tallow.kernel.vectorise import vectorise

__all__ = ["group_size", "print_kernel"]


def print_kernel(kernel: Kernel, dialect: Dialect, vector_bytes: int = 0) -> str:
    """The source of one kernel, complete with the helpers it uses; CompileError for what C cannot say.

    The function takes the buffers in the order of the parameters and then the sizes as 64-bit integers.
    vector_bytes: width of the vectors that `vector` loops become, 0 for none. Run kernels with vectors and
    without `group` loops in work-groups of one, so that each may go to a core of its own.
    """
    kernel = expand(kernel, NATIVE)
    if not vector_bytes:
        return ScalarPrinter(unroll(kernel), dialect).source()
    if dialect.lanes < 2:
        raise CompileError(f"kernel {kernel.name}: {dialect.name} has no vectors; print it without")
    return VectorPrinter(unroll(vectorise(kernel, vector_bytes, dialect.lanes)), dialect).source()
