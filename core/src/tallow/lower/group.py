"""What a lowering is given and what it makes: a Group of fused nodes in, kernel calls out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tallow.dim import Dim
from tallow.dtype import DType
from tallow.graph import Node, Value
from tallow.kernel.grammar import Kernel


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Nodes that become one materialised value, everything else of them inlined.

    root: the node that gives the group its shape of work (matmul, reduce, ...), or None if the group
    is all index rules. prologue: nodes inlined into the root's reads. epilogue: nodes after the root,
    pointwise on its result. outputs: what the group writes; inputs: the materialised values it reads.
    """

    root: Node | None
    prologue: tuple[Node, ...]
    epilogue: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def nodes(self) -> tuple[Node, ...]:
        return (*self.prologue, *([self.root] if self.root else []), *self.epilogue)


@dataclass(frozen=True, slots=True, eq=False)
class Temporary:
    """Scratch memory that a group needs between its kernels."""

    name: str
    dtype: DType
    size: Dim  # elements


@dataclass(frozen=True, slots=True, eq=False)
class KernelCall:
    """One kernel with its arguments, one for each parameter and each size variable, in their order.

    grid: iterations of the kernel's grid loop. grain: the least that is worth a thread of its own.
    flops: arithmetic of the whole call, for profiles.
    """

    kernel: Kernel
    arguments: tuple[Value | Temporary, ...]
    sizes: tuple[Dim, ...]
    grid: Dim
    grain: int = 1
    flops: Dim = 0


@dataclass(frozen=True, slots=True)
class Declined:
    """Why a lowering does not take a group; the next one is tried and the plan can say so."""

    reason: str


Lowering = Callable[[Group, "object"], Sequence[KernelCall] | Declined]  # (group, target)
