"""Inliner: writes element `index` of any value of a group as kernel statements.

Values that the group reads from memory become loads of parameter buffers; the rest is inlined
through the index rules of their ops, one `Let` for each node and index, so that a kernel reads like
the graph it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tallow.dim import Dim, product
from tallow.errors import CompileError
from tallow.graph import Node, Value, type_symbols, used_symbols
from tallow.kernel import build
from tallow.kernel.grammar import (
    Buffer,
    Const,
    Exchange,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Load,
    Stmt,
    Store,
    Var,
)
from tallow.lower.group import Group, KernelCall, Temporary
from tallow.lower.sizes import Sizes
from tallow.ops import op

Override = Callable[[tuple[Expr, ...]], Expr]


class Inliner:
    """Collects the parameters and sizes of one kernel while scopes write its statements."""

    def __init__(self, group: Group):
        self.group = group
        self.producer: dict[Value, Node] = {v: node for node in group.nodes for v in node.outputs}
        self.parameters: dict[Value | Temporary, Buffer] = {}
        self._names: dict[str, int] = {}
        self._reserved = {name for node in group.nodes for name in used_symbols(node)}
        for value in (*group.inputs, *group.outputs):
            self._reserved |= set(type_symbols(value.type))

    def buffer(self, value: Value | Temporary, writable: bool = False) -> Buffer:
        """The parameter buffer of a materialised value, added when it is first asked for."""
        known = self.parameters.get(value)
        if known is None:
            prefix = "y" if writable else "x"
            dtype = value.dtype
            known = Buffer(f"{prefix}{len(self.parameters)}", dtype, None, "global", writable)
            self.parameters[value] = known
        return known

    def size(self, dim: Dim) -> Expr:
        """A Dim as a kernel expression; its symbols become sizes of the kernel."""
        return build.from_dim(dim)

    def fresh(self, hint: str) -> str:
        """A variable name that no other statement of the kernel uses."""
        while True:
            number = self._names.get(hint, 0)
            self._names[hint] = number + 1
            name = f"{hint}_{number}"
            if name not in self._reserved:
                return name

    def loop(self, hint: str = "i") -> Var:
        """A loop variable of its own name."""
        return Var(self.fresh(hint))

    def let(self, statements: list[Stmt], element: Expr, hint: str = "t") -> Expr:
        """A name for an expression, so that it is computed once; leaves are their own name."""
        if isinstance(element, (Var, Const)):
            return element
        var = Var(self.fresh(hint), element.dtype, element.lanes)
        statements.append(Let(var, element))
        return var

    def scope(self, statements: list[Stmt], overrides: Mapping[Value, Override] | None = None) -> Scope:
        """A place to write: reads append their `Let`s to `statements`."""
        return Scope(self, statements, overrides or {})

    def linear(self, shape: Sequence[Dim], index: Sequence[Expr]) -> Expr:
        """The row-major position of `index` in an array of that shape."""
        position: Expr = build.const(0)
        for axis, at in enumerate(index):
            stride = self.size(product(shape[axis + 1 :]))
            position = build.add(position, build.mul(at, stride))
        return position

    def call(self, name: str, body: Sequence[Stmt], grid: Dim, grain: int = 1, flops: Dim = 0) -> KernelCall:
        """The kernel of everything written, with its arguments in order."""
        sizes = Sizes(frozenset(_free_names(body, frozenset())), self.fresh)
        statements = sizes.statements(body)
        names = tuple(Var(n) for n in sizes.parameters)
        kernel = Kernel(name, tuple(self.parameters.values()), names, statements)
        return KernelCall(
            kernel, tuple(self.parameters), tuple(sizes.parameters.values()), grid, grain, flops
        )


def _free_names(statements: Iterable[Stmt], bound: frozenset[str]) -> set[str]:
    """Variables that nothing binds: the sizes that a kernel needs."""
    free: set[str] = set()
    for statement in statements:
        inside: set[str] = set()
        match statement:
            case For(var, body=body):
                inside = _free_names(body, bound | {var.name})
            case If(_, then, otherwise):
                inside = _free_names(then, bound) | _free_names(otherwise, bound)
        free |= ({var.name for var in _variables(build.stmt_exprs(statement))} - bound) | inside
        if isinstance(statement, (Let, Exchange)):
            bound |= {statement.var.name}
    return free


def _variables(expressions: Iterable[Expr]) -> Iterator[Var]:
    waiting = list(expressions)
    while waiting:
        e = waiting.pop()
        if isinstance(e, Var):
            yield e
        else:
            waiting += build.children(e)


class Scope:
    """One block of statements in which each (value, index) is computed once."""

    def __init__(self, inliner: Inliner, statements: list[Stmt], overrides: Mapping[Value, Override]):
        self.inliner = inliner
        self.statements = statements
        self.overrides = overrides
        self._known: dict[tuple, Expr] = {}

    def read(self, value: Value, index: tuple[Expr, ...], guard: Expr | None = None) -> Expr:
        """Element `index` of `value`; where `guard` is false nothing is read and the result is anything."""
        key = (value, index, guard)
        if key not in self._known:
            self._known[key] = self._compute(value, index, guard)
        return self._known[key]

    def store(
        self, value: Value | Temporary, shape: Sequence[Dim], index: tuple[Expr, ...], element: Expr
    ) -> None:
        """Append the store of one element of a materialised value."""
        buffer = self.inliner.buffer(value, writable=True)
        self.statements.append(Store(buffer, self.inliner.linear(shape, index), element))

    def let(self, element: Expr, hint: str = "t") -> Expr:
        """A name for an expression among the scope's statements."""
        return self.inliner.let(self.statements, element, hint)

    def _compute(self, value: Value, index: tuple[Expr, ...], guard: Expr | None) -> Expr:
        if value in self.overrides:
            return self.overrides[value](index)
        node = self.inliner.producer.get(value)
        if node is None:
            buffer = self.inliner.buffer(value)
            return self.let(Load(buffer, self.inliner.linear(value.shape, index), 1, guard), "x")
        if node.op == "constant" and node["value"].size == 1 and value.dtype.kind != "string":
            return build.const(node["value"].reshape(()).item(), value.dtype)
        rule = op(node.op).index
        if rule is None:
            raise CompileError(
                f"{node.op} cannot be inlined into a kernel: it has no index rule ({node.location})"
            )

        def read(operand: int, at: tuple[Expr, ...], inner: Expr | None = None) -> Expr:
            both = inner if guard is None else guard if inner is None else build.logical_and(guard, inner)
            return self.read(node.inputs[operand], at, both)

        return self.let(rule(node, index, read), node.op if node.op.isidentifier() else "t")
