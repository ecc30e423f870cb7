"""Vector statements and expressions in OpenCL C, on top of the scalar ones.

A vector of bools is a mask: 32-bit integers that are 0 or -1, whatever the width of what they choose
from. Masked reads and writes go lane by lane unless all lanes are on.
"""

from __future__ import annotations

import re

from tallow.cstyle.dialects import Dialect
from tallow.cstyle.functions import FLOAT_OPERATORS, INDEX_OPERATORS, OPERATORS, VECTOR_BODIES, VECTOR_LOGICAL
from tallow.cstyle.scalars import NARROW, ScalarPrinter
from tallow.dtype import DType, bf16, bool_, f16, f64, i32, i64
from tallow.errors import CompileError
from tallow.kernel.build import stmt_exprs, walk_exprs, walk_stmts
from tallow.kernel.grammar import (
    Alloc,
    Bitcast,
    Buffer,
    Call,
    Cast,
    Const,
    Expr,
    Kernel,
    Let,
    Load,
    Ramp,
    Reduce,
    Splat,
    Stmt,
    Store,
    Var,
)
from tallow.kernel.updates import combine

_ALIGNED = "__attribute__((aligned(64)))"


class VectorPrinter(ScalarPrinter):
    """One kernel with explicit vectors while it is printed."""

    def __init__(self, kernel: Kernel, dialect: Dialect):
        super().__init__(kernel, dialect)
        self.whole = _whole_registers(kernel)

    def vector_type(self, dtype: DType, lanes: int) -> str:
        """The type of a vector value: an OpenCL vector; `lanes` must be one that there is."""
        if lanes not in (2, 4, 8, 16):
            raise CompileError(f"kernel {self.kernel.name}: expected 2, 4, 8 or 16 lanes, got {lanes}")
        return f"{self.dialect.types['i32'] if dtype == bool_ else self.type(dtype)}{lanes}"

    # Statements --------------------------------------------------------------------------------

    def statement(self, s: Stmt, depth: int) -> list[str]:
        pad = "  " * depth
        match s:
            case Let(var, value) if var.lanes > 1:
                text = self.value(value)
                return [
                    f"{pad}const {self.vector_type(var.dtype, var.lanes)} {self.name(var.name)} = {text};"
                ]
            case Alloc(buffer) if buffer.name in self.whole:
                lanes, name = self.whole[buffer.name], self.name(buffer.name)
                parts = ", ".join(f"{name}v{n}" for n in range(buffer.size // lanes))
                return [f"{pad}{self.vector_type(buffer.dtype, lanes)} {parts};"]
            case Alloc(buffer) if buffer.space != "shared":
                return [pad + self.array(buffer, after=f" {_ALIGNED}")]
        return super().statement(s, depth)

    def written(self, s) -> str:
        lanes = max(s.value.lanes, s.index.lanes)
        if not isinstance(s, Store) or lanes == 1:
            return super().written(s)
        value = self.value(s.value)
        if s.buffer.name in self.whole:
            return f"{self.part(s.buffer, s.index)} = {value};"
        mask = [] if s.mask is None else [self.value(s.mask)]
        index = self.value(s.index, True)
        name = self.store_helper(s.buffer, lanes, s.index.lanes > 1, s.mask is not None)
        return f"{name}({', '.join([self.names[s.buffer.name], index, value, *mask])});"

    def part(self, buffer: Buffer, index: Const) -> str:
        """The variable of a register buffer that holds the vector at an index."""
        return f"{self.names[buffer.name]}v{index.value // self.whole[buffer.name]}"

    # Expressions -------------------------------------------------------------------------------

    def value(self, e: Expr, index: bool = False) -> str:
        if e.lanes == 1 and not isinstance(e, Reduce):
            return super().value(e, index)
        match e:
            case Const(value, dtype, lanes):
                text = ("-1" if value else "0") if dtype == bool_ else self.constant(value, dtype)
                return f"(({self.vector_type(dtype, lanes)})({text}))"
            case Var(name):
                return self.names[name]
            case Ramp(lanes):
                return f"(({self.vector_type(i64, lanes)})({', '.join(map(str, range(lanes)))}))"
            case Splat(value, lanes):
                text = self.value(value, index)
                text = f"-({text})" if value.dtype == bool_ else text
                return f"(({self.vector_type(value.dtype, lanes)})({text}))"
            case Load():
                return self.vector_load(e)
            case Call(function, arguments):
                texts = [self.value(a, index) for a in arguments]
                return self.apply_lanes(function, arguments[-1].dtype, e.lanes, texts, index)
            case Cast(value, dtype):
                return self.vector_cast(self.value(value, index), value.dtype, dtype, e.lanes)
            case Bitcast(value, dtype):
                self.bits(value.dtype, dtype)
                return f"as_{self.vector_type(dtype, e.lanes)}({self.value(value)})"
            case Reduce(op, value):
                return self.fold(op, value)
        raise CompileError(f"kernel {self.kernel.name}: no C for {type(e).__name__}")

    def apply_lanes(
        self, function: str, dtype: DType, lanes: int, texts: list[str], index: bool = False
    ) -> str:
        """A scalar function of vectors that are text: in vectors where the language can, else lane by lane."""
        if function == "select":
            return f"({self.wide_mask(texts[0], dtype, lanes)} ? {texts[1]} : {texts[2]})"
        if dtype == bool_:
            return VECTOR_LOGICAL[function].format(*texts)
        if function in OPERATORS:
            return self.narrow_mask(f"({texts[0]} {OPERATORS[function]} {texts[1]})", dtype, lanes)
        operators = FLOAT_OPERATORS if dtype.is_float else INDEX_OPERATORS if index and dtype == i64 else {}
        if function in operators:
            return f"({texts[0]} {operators[function]} {texts[1]})"
        kind = self.vector_type(dtype, lanes)
        mask = function in ("isnan", "isinf")
        result = self.vector_type(bool_, lanes) if mask else kind
        body = VECTOR_BODIES[dtype.kind].get(function)
        if body is None:
            body = self.lane_by_lane(function, dtype, lanes, len(texts), kind)
        else:
            body = body.format(bits=dtype.bits, infinity=self.dialect.infinity)
            body = self.spelled(body, dtype, lanes, kind)
            body = self.narrow_mask(body, dtype, lanes) if mask else body
        named = ", ".join(f"{kind} {letter}" for letter in "abc"[: len(texts)])
        name = self.helper(f"{function}_{dtype}_{lanes}", result, named, f"return {body};")
        return f"{name}({', '.join(texts)})"

    def spelled(self, body: str, dtype: DType, lanes: int, kind: str) -> str:
        """A body with its letters replaced: types T and U, and for floats S and M."""
        wide = dtype == f64
        unsigned = {"int": f"u{kind}", "float": f"{'ulong' if wide else 'uint'}{lanes}"}.get(dtype.kind, kind)
        sign = f"(({unsigned})({'0x8000000000000000uL' if wide else '0x80000000u'}))"
        whole = f"(({kind})({'4503599627370496.0' if wide else '8388608.0f'}))"
        for letter, text in ((r"\bS\b", sign), (r"\bM\b", whole), (r"U\b", unsigned), (r"T\b", kind)):
            body = re.sub(letter, text, body)
        return body

    def lane_by_lane(self, function: str, dtype: DType, lanes: int, arity: int, kind: str) -> str:
        parts = [self.apply(function, dtype, [f"{a}.s{n:x}" for a in "abc"[:arity]]) for n in range(lanes)]
        return f"({kind})({', '.join(parts)})"

    def mask_type(self, dtype: DType, lanes: int) -> str:
        """What comparing vectors of a dtype gives."""
        width = 4 if dtype in NARROW else dtype.itemsize
        return {1: "char", 2: "short", 4: "int", 8: "long"}[width] + str(lanes)

    def narrow_mask(self, text: str, dtype: DType, lanes: int) -> str:
        """The outcome of a comparison as a mask."""
        kind = self.mask_type(dtype, lanes)
        return text if kind.startswith("int") else f"convert_int{lanes}({text})"

    def wide_mask(self, text: str, dtype: DType, lanes: int) -> str:
        """A mask as what chooses between vectors of a dtype."""
        kind = self.mask_type(i32 if dtype == bool_ else dtype, lanes)
        return text if kind.startswith("int") else f"convert_{kind}({text})"

    def fold(self, op: str, value: Expr) -> str:
        """The helper that folds halves until one lane is left, applied."""
        dtype, lanes = value.dtype, value.lanes
        body, last = "", "x"
        while lanes > 1:
            lanes //= 2
            halves = f"{last}.lo", f"{last}.hi"
            row = combine(op, Const(0, dtype, lanes), Const(0, dtype, lanes), lanes, dtype).function
            if lanes == 1:
                texts = [f"({h} != 0)" if dtype == bool_ else h for h in halves]
                body += f"return {self.apply(row, dtype, texts)};"
                break
            last = f"x{lanes}"
            body += f"{self.vector_type(dtype, lanes)} {last} = {self.apply_lanes(row, dtype, lanes, list(halves))}; "
        kind = self.vector_type(dtype, value.lanes)
        return f"{self.helper(f'fold_{op}_{dtype}_{value.lanes}', self.type(dtype), f'{kind} x', body)}({self.value(value)})"

    # Conversions -------------------------------------------------------------------------------

    def vector_cast(self, text: str, source: DType, to: DType, lanes: int) -> str:
        if to == source or (source in NARROW and to.is_float and to not in NARROW and to != f64):
            return text
        kind = self.vector_type(to, lanes)
        if source == bool_:
            return f"convert_{kind}({text} & 1)"
        if to == bool_:
            zero = f"({self.vector_type(source, lanes)})({self.constant(0, source)})"
            return self.narrow_mask(f"({text} != {zero})", source, lanes)
        if to not in NARROW and not (source.is_float and to.is_integer):
            return f"convert_{kind}({text})"
        given = self.vector_type(source, lanes)
        if to == f16 and source != f64 and source.is_float:
            body = f"ushort h[{lanes}]; vstore_half{lanes}_rte(x, 0, (half *)h); "
            body += f"return vload_half{lanes}(0, (half *)h);"
        else:
            parts = (self.convert(f"x.s{n:x}", source, to) for n in range(lanes))
            body = f"return ({kind})({', '.join(parts)});"
        return f"{self.helper(f'{source}_to_{to}_{lanes}', kind, f'{given} x', body)}({text})"

    # Memory ------------------------------------------------------------------------------------

    def vector_load(self, e: Load) -> str:
        if e.buffer.name in self.whole:
            return self.part(e.buffer, e.index)
        lanes = max(e.lanes, e.index.lanes)
        mask = [] if e.mask is None else [self.value(e.mask)]
        name = self.load_helper(e.buffer, lanes, e.index.lanes > 1, e.mask is not None)
        return f"{name}({', '.join([self.names[e.buffer.name], self.value(e.index, True), *mask])})"

    def lane(self, n: int, spread: bool) -> str:
        """Where lane n is in memory."""
        return f"i.s{n:x}" if spread else f"i + {n}"

    def access(self, what: str, buffer: Buffer, lanes: int, spread: bool, masked: bool):
        """Name and common parameters of a helper that reads or writes a buffer's memory."""
        space = self.space(buffer)
        words = [what, str(buffer.dtype), str(lanes), space.strip("_ ") or "private"]
        name = "_".join([*words, *(["spread"] if spread else []), *(["masked"] if masked else [])])
        index = self.vector_type(i64, lanes) if spread else self.type(i64)
        const = "const " if what == "read" else ""
        parameters = [f"{space}{const}{self.element(buffer.dtype)} *p", f"{index} i"]
        return name, parameters, [f"{self.vector_type(bool_, lanes)} m"] if masked else []

    def load_helper(self, buffer: Buffer, lanes: int, spread: bool, masked: bool) -> str:
        dtype = buffer.dtype
        kind = self.vector_type(dtype, lanes)
        name, parameters, mask = self.access("read", buffer, lanes, spread, masked)
        reader = self.narrow_access(buffer, "read") if dtype in NARROW else None

        def one(n: int) -> str:
            at = self.lane(n, spread)
            text = f"{reader}(p, {at})" if reader else f"p[{at}]"
            text = f"-({text} != 0)" if dtype == bool_ else text
            return (
                f"(m.s{n:x} ? {text} : ({self.type(dtype if dtype != bool_ else i32)})0)" if masked else text
            )

        lanes_read = f"return ({kind})({', '.join(map(one, range(lanes)))});"
        whole = {
            bool_: f"(convert_int{lanes}(vload{lanes}(0, p + i)) != 0)",
            f16: f"vload_half{lanes}(0, p + i)",
            bf16: f"as_float{lanes}(convert_uint{lanes}(vload{lanes}(0, p + i)) << 16)",
        }.get(dtype, f"vload{lanes}(0, p + i)")
        body = lanes_read if spread else f"return {whole};"
        if masked and not spread:
            body = f"if (all(m)) return {whole}; {lanes_read}"
        return self.helper(name, kind, ", ".join([*parameters, *mask]), body)

    def store_helper(self, buffer: Buffer, lanes: int, spread: bool, masked: bool) -> str:
        dtype = buffer.dtype
        kind = self.vector_type(dtype, lanes)
        name, parameters, mask = self.access("write", buffer, lanes, spread, masked)
        writer = self.narrow_access(buffer, "write") if dtype in NARROW else None

        def one(n: int) -> str:
            at, value = self.lane(n, spread), f"x.s{n:x}"
            value = f"({value} != 0)" if dtype == bool_ else value
            text = f"{writer}(p, {at}, {value});" if writer else f"p[{at}] = {value};"
            return f"if (m.s{n:x}) {text}" if masked else text

        lanes_written = " ".join(map(one, range(lanes)))
        whole = {
            bool_: f"vstore{lanes}(convert_uchar{lanes}(x & 1), 0, p + i);",
            f16: f"vstore_half{lanes}_rte(x, 0, p + i);",
            bf16: None,
        }.get(dtype, f"vstore{lanes}(x, 0, p + i);")
        if spread or whole is None:
            body = lanes_written
        else:
            body = f"if (all(m)) {{ {whole} return; }} {lanes_written}" if masked else whole
        return self.helper(name, "void", ", ".join([*parameters, f"{kind} x", *mask]), body)


def _whole_registers(kernel: Kernel) -> dict[str, int]:
    """Register buffers that are only read and written in whole vectors of one length: name -> lanes."""
    accesses: dict[str, set[int | None]] = {}

    def note(buffer: Buffer, index: Expr, lanes: int) -> None:
        if buffer.space == "register":
            fits = isinstance(index, Const) and lanes > 1 and not index.value % lanes
            fits = fits and not buffer.size % lanes
            accesses.setdefault(buffer.name, set()).add(lanes if fits else None)

    for s in walk_stmts(kernel.body):
        if isinstance(s, Store):
            masked = s.mask is not None
            note(s.buffer, s.index, 0 if masked else max(s.value.lanes, s.index.lanes))
        elif hasattr(s, "op"):
            note(s.buffer, s.index, 0)
        for root in stmt_exprs(s):
            for e in walk_exprs(root):
                if isinstance(e, Load):
                    note(e.buffer, e.index, 0 if e.mask is not None else e.lanes)
    return {name: lanes.pop() for name, lanes in accesses.items() if len(lanes) == 1 and None not in lanes}
