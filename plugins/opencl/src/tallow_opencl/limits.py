"""What kernels may ask of a device, checked as they are made: those that ask for more are declined."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from tallow.cstyle.dialects import OPENCL
from tallow.cstyle.printer import group_size, print_kernel
from tallow.kernel.grammar import Alloc, For, If, Kernel, Stmt
from tallow.lower.group import Declined, Group, KernelCall, Lowering
from tallow.target import Target


def within_limits(lowerings: Mapping[str, Lowering]) -> Mapping[str, Lowering]:
    """The lowerings, declining where a kernel of theirs asks for more than the target has."""
    return {op: _within_limits(lowering) for op, lowering in lowerings.items()}


def _within_limits(lowering: Lowering) -> Lowering:
    def limited(group: Group, target: Target) -> Sequence[KernelCall] | Declined:
        calls = lowering(group, target)
        if isinstance(calls, Declined):
            return calls
        reasons = (excess(call.kernel, target) for call in calls)
        reason = next((r for r in reasons if r is not None), None)
        return calls if reason is None else Declined(reason)

    return limited


def excess(kernel: Kernel, target: Target) -> str | None:
    """What a kernel needs and the target lacks, in words; None if it has all."""
    limits = target.limits
    wanted = {
        "buffers": (len(kernel.parameters), "buffers"),
        "group": (group_size(kernel) or 1, "threads in a work-group"),
        "shared": (shared_bytes(kernel), "bytes of local memory"),
    }
    for name, (count, what) in wanted.items():
        if count > limits[name]:
            return f"its kernel needs {count} {what}, and the device has {limits[name]}"
    if "fp64" not in target.features and _computes_in_f64(kernel, target):
        return "its kernel computes in f64, which the device does not"
    return None


def shared_bytes(kernel: Kernel) -> int:
    return sum(a.buffer.size * a.buffer.dtype.itemsize for a in _shared(kernel.body))


def _shared(body: Sequence[Stmt]) -> Iterator[Alloc]:
    for s in body:
        match s:
            case Alloc() if s.buffer.space == "shared":
                yield s
            case For():
                yield from _shared(s.body)
            case If():
                yield from _shared((*s.then, *s.otherwise))


def _computes_in_f64(kernel: Kernel, target: Target) -> bool:
    """Approximations may go by f64 between values of other dtypes, which the text alone tells."""
    return re.search(r"\bdouble\d*\b", print_kernel(kernel, OPENCL, target.vector_bytes)) is not None
