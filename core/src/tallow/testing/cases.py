"""Cases of the kit: scalar functions, casts, movement, gathers, scatters and reductions; and the table of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tallow.builder import Builder
from tallow.dtype import DTYPES
from tallow.graph import Value
from tallow.scalar import SCALAR
from tallow.testing import layer_cases
from tallow.testing.accuracy import EXACT, Accuracy, of_scalar, sum_of
from tallow.testing.case import ALL, MATRIX, MOVED, Case, Sizes, Write

DOMAINS = {
    "log": (1e-3, 1e3), "log2": (1e-3, 1e3), "log1p": (-0.9, 1e3), "sqrt": (0, 1e3), "rsqrt": (1e-3, 1e3),
    "reciprocal": (0.1, 100), "pow": (0.1, 4), "asin": (-1, 1), "acos": (-1, 1), "atanh": (-0.99, 0.99),
    "acosh": (1, 50), "exp": (-9, 9), "exp2": (-9, 9), "sinh": (-9, 9), "cosh": (-9, 9), "tan": (-1.5, 1.5),
    "shift_left": (0, 9), "shift_right": (0, 9),
}  # fmt: skip
DEFINED_BY_NUMPY_ALONE = {"pow", "mod", "fmod", "atan2"}  # for infinities and the like, libraries differ
# Scalar functions ---------------------------------------------------------------------------------------


def _scalar(name: str, shapes: Sequence[Sequence]) -> Write:
    def write(b: Builder, dtype: str) -> Value:
        dtypes = ["bool" if name == "select" and not position else dtype for position in range(len(shapes))]
        inputs = [b.input(f"x{i}", d, s) for i, (d, s) in enumerate(zip(dtypes, shapes, strict=True))]
        return b.emit(name, *inputs)

    return write


def _scalars() -> Iterator[Case]:
    for name, row in SCALAR.items():
        kinds = [d for d in ALL if DTYPES[d].kind in row.kinds]
        quick = [d for d in ("f32", "f16", "i32", "u8", "bool") if d in kinds]
        yield Case(
            name,
            _scalar(name, [("n", "m")] * row.arity),
            tuple(kinds),
            tuple(quick),
            accuracy=of_scalar(name),
            domain=DOMAINS.get(name, (-100, 100)),
            special=name not in DEFINED_BY_NUMPY_ALONE,
            fixed=name in ("add", "neg", "eq", "select"),
        )
    for what, shapes in (
        ("a row", (("n", "m"), ("m",))),
        ("a column", (("n", "m"), ("n", 1))),
        ("a scalar", ((), ("n", "m"))),
        ("both ways", (("n", 1), (1, "m"))),
        ("more axes", (("m",), (2, "n", 1))),
    ):
        yield Case(f"sub, broadcasting {what}", _scalar("sub", shapes), ALL[:-1], ("f32", "u8"))
    yield Case("select, broadcasting", _scalar("select", [("n", 1), ("m",), ()]), ALL, ("f32", "bool"))


def _casts() -> Iterator[Case]:
    for target in ALL:
        yield Case(
            f"cast to {target}",
            lambda b, d, target=target: b.cast(b.input("x", d, ("n", "m")), dtype=DTYPES[target]),
            tuple(d for d in ALL if d != target),
            tuple(d for d in ("f32", "i32", "bool") if d != target),
            domain=(-300, 300),
            special=DTYPES[target].is_float,
        )
    for target in ("bf16", "f16", "i8", "u8", "i16", "u16", "bool"):
        yield Case(
            f"rows times numbers, cast to {target}",
            lambda b, d, target=target: b.cast(
                b.mul(b.input("x", d, ("n", "m")), b.input("w", d, ("n", 1))), dtype=DTYPES[target]
            ),
            ("f32", "f64"),
            ("f32",),
            domain=(-9, 9),
            special=False,
        )
    for source, target in (("f32", "i32"), ("i32", "f32"), ("f32", "u32")):
        yield Case(
            f"bitcast {source} to {target}",
            lambda b, d, target=target: b.bitcast(b.input("x", d, ("n", "m")), dtype=DTYPES[target]),
            (source,),
            (source,),
            domain=(0x3F800000, 0x40000000) if source == "i32" else (-4, 4),
        )


# Movement and picking -----------------------------------------------------------------------------------

CUBE = (
    {"n": 7, "m": 11},
    {"n": 1, "m": 1},
    {"n": 0, "m": 2},
    {"n": 2, "m": 0},
    {"n": 2, "m": 433},
    {"n": 5, "m": 6},
)


def _moves() -> Iterator[Case]:
    def case(name: str, write: Callable, **how) -> Case:
        how = {"dtypes": ALL, "quick": MOVED, "sizes": CUBE} | how
        return Case(name, lambda b, d: write(b, b.input("x", d, ("n", "m", 5))), **how)

    yield case("reshape", lambda b, x: b.reshape(x, shape=(5, x.shape[0] * x.shape[1])))
    for order in ((2, 1, 0), (0, 2, 1), (1, 0, 2), (1, 2, 0)):
        yield case(f"transpose {order}", lambda b, x, order=order: b.transpose(x, permutation=order))
    yield case("broadcast", lambda b, x: b.broadcast(x, shape=(2, *x.shape)))
    yield case(
        "slice",
        lambda b, x: b.slice(x, starts=(0, 0, 4), steps=(1, 1, -2), shape=(x.shape[0], x.shape[1], 3)),
    )
    yield case("concat, last axis", lambda b, x: b.concat(x, x, axis=2))
    yield case(
        "concat, first axis", lambda b, x: b.concat(x, b.transpose(x, permutation=(0, 1, 2)), x, axis=0)
    )
    yield case(
        "pad, constant",
        lambda b, x: b.pad(x, before=(1, 0, 2), after=(0, 3, 1), mode="constant"),
        quick=("f32", "u8"),
    )
    yield case(
        "pad, edge",
        lambda b, x: b.pad(x, before=(0, 0, 2), after=(0, 0, 1), mode="edge"),
        quick=("f32", "u8"),
    )
    yield case(
        "pad, reflect",
        lambda b, x: b.pad(x, before=(0, 0, 2), after=(0, 0, 3), mode="reflect"),
        quick=("f32",),
    )


def _index(low_high: Callable[[Sizes], tuple[int, int]], name: str = "at"):
    return lambda n, sizes: low_high(sizes) if n == name else (-4, 4)


def _picks() -> Iterator[Case]:
    def gather(b, d):
        return b.gather(b.input("x", d, ("n", "m")), b.input("at", "i64", (3, 2)), axis=1)

    def elements(b, d):
        return b.gather_elements(b.input("x", d, ("n", "m")), b.input("at", "i32", ("n", 4)), axis=1)

    def nd(b, d):
        return b.gather_nd(b.input("x", d, ("n", "m")), b.input("at", "i64", (7, 1)), batch_dims=0)

    def scatter(reduction: str):
        def write(b, d):
            x, at, updates = (
                b.input("x", d, ("n", "m")),
                b.input("at", "i64", ("n", 1)),
                b.input("u", d, ("n", 1)),
            )
            return b.scatter_elements(x, at, updates, axis=1, reduction=reduction)

        return write

    def scatter_nd(b, d):
        x, at, updates = b.input("x", d, ("n", "m")), b.input("at", "i64", (3, 1)), b.input("u", d, (3, "m"))
        return b.scatter_nd(x, at, updates, reduction="add")

    adding = Accuracy(4, 0, 8.0)  # each update may be rounded to the dtype where it is kept
    some = tuple(s for s in MATRIX if s["m"])
    rows = tuple(s for s in MATRIX if s["n"])
    last = _index(lambda s: (-s["m"], s["m"] - 1))
    first = _index(lambda s: (-s["n"], s["n"] - 1))
    yield Case("gather", gather, ALL, MOVED, some, domain=last)
    yield Case("gather_elements", elements, ALL, MOVED, some, domain=last)
    yield Case("gather_nd", nd, ALL, MOVED, rows, domain=first)
    yield Case("scatter_elements", scatter("none"), ALL, MOVED, some, domain=last)
    yield Case("scatter_elements, add", scatter("add"), ALL[:-1], ("f32", "i32"), some, adding, last)
    yield Case(
        "scatter_elements, max", scatter("max"), ALL[:-1], ("f32", "i32"), some, domain=last, special=False
    )
    yield Case("scatter_nd, add", scatter_nd, ALL[:-1], ("f32", "i32"), rows, adding, first)


# Reductions ---------------------------------------------------------------------------------------------


def _reductions() -> Iterator[Case]:
    for function in ("add", "mul", "max", "min", "and", "or"):
        logical = function in ("and", "or")
        for what, axes, keep in (
            ("last", (2,), False),
            ("first", (0,), True),
            ("all", (0, 1, 2), False),
            ("middle", (1,), False),
        ):
            terms = {"add": 385, "mul": 385}.get(function, 0)
            yield Case(
                f"reduce {function}, {what} axis",
                lambda b, d, f=function, a=axes, k=keep: b.reduce(
                    b.input("x", d, ("n", "m", 5)), function=f, axes=a, keepdims=k
                ),
                ("bool",) if logical else ALL[:-1],
                ("bool",) if logical else ("f32", "i32") if what != "last" else ("f32", "f16", "i32", "u8"),
                CUBE[:4],
                sum_of(terms) if terms else EXACT,
                (0.9, 1.1) if function == "mul" else (-4, 4),
            )
    for name in ("argmax", "argmin"):
        yield Case(
            name,
            lambda b, d, name=name: b.emit(name, b.input("x", d, ("n", "m")), axis=1, keepdims=False),
            ALL[:-1],
            ("f32", "f16", "i32", "u8"),
            tuple(s for s in MATRIX if s["m"]),
        )
    for exclusive, reverse in ((False, False), (True, False), (False, True)):
        yield Case(
            f"cumulative add{', exclusive' * exclusive}{', reverse' * reverse}",
            lambda b, d, e=exclusive, r=reverse: b.cumulative(
                b.input("x", d, ("n", "m")), function="add", axis=1, exclusive=e, reverse=r
            ),
            ALL[:-1],
            ("f32", "i32"),
            accuracy=sum_of(2083),
        )
    yield Case(
        "topk",
        lambda b, d: b.topk(b.input("x", d, ("n", "m")), k=3, axis=1, largest=True, sorted=True),
        ALL[:-1],
        ("f32", "i32"),
        tuple(s for s in MATRIX if s["m"] >= 3),
        special=False,
    )


CASES = (
    *_scalars(),
    *_casts(),
    *_moves(),
    *_picks(),
    *_reductions(),
    *layer_cases.CASES,
)
