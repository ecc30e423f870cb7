"""Kernels whose text is C already: the head that the dialect wants, with each parameter under its own name."""

from __future__ import annotations

from tallow.cstyle.dialects import Dialect
from tallow.dtype import DType, bf16, f16
from tallow.errors import CompileError
from tallow.kernel.grammar import SourceKernel


def print_source(kernel: SourceKernel, dialect: Dialect) -> str:
    """The source of one kernel; it takes buffers and then sizes, as others do."""
    integer = dialect.types["i64"]
    parameters = []
    for b in kernel.parameters:
        if b.dtype not in (f16, bf16) and b.dtype.name not in dialect.types:
            raise CompileError(f"kernel {kernel.name}: no {b.dtype} in {dialect.name}")
        const, kind = "" if b.writable else "const ", element_type(b.dtype, dialect)
        parameters.append(dialect.parameter.format(const=const, type=kind, name=b.name))
    parameters += [f"{integer} {size.name}" for size in kernel.sizes]
    return "\n".join(
        [
            dialect.prelude,
            f"{dialect.kernel} {kernel.name}_({', '.join(parameters)}) {{",
            f"  const {integer} item = ({integer}){dialect.everyone};",
            f"  if (item < grid) {{ {kernel.text} }}",
            "}\n",
        ]
    )


def element_type(dtype: DType, dialect: Dialect) -> str:
    """The C type of an element in memory: bf16 lies there as an integer. KeyError if the dialect has none."""
    return dialect.half if dtype == f16 else dialect.types["u16" if dtype == bf16 else dtype.name]
