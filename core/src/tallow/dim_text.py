"""The text of sizes read back: what `str` of a Dim prints."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from tallow.dim import BUILD, Dim, floordiv, symbol
from tallow.errors import GraphError
from tallow.scan import Scanner


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> Dim:
    """The Dim that `str` printed: integers, names, + - * // and the functions of `Apply`."""
    try:
        scanner = Scanner(text)
        dim = scan_dim(scanner)
        if scanner.peek().kind != "end":
            raise scanner.error("+ - * // or the end of a size")
        return dim
    except GraphError as error:
        raise GraphError(f"bad size {text!r}: {error}") from None
    except (ZeroDivisionError, RecursionError) as error:
        raise GraphError(f"bad size {text!r}: {type(error).__name__}") from None


def scan_dim(scanner: Scanner, make: Callable[[str], Dim] = symbol) -> Dim:
    """The Dim that a text goes on with; `make` gives the symbol of a name."""
    total = _scan_term(scanner, make)
    while scanner.at("+") or scanner.at("-"):
        sign = 1 if scanner.next().text == "+" else -1
        total = total + _scan_term(scanner, make) * sign
    return total


def _scan_term(scanner: Scanner, make: Callable[[str], Dim]) -> Dim:
    if scanner.take("-"):
        return _scan_term(scanner, make) * -1
    term = _scan_atom(scanner, make)
    while scanner.at("*") or scanner.at("//"):
        times = scanner.next().text == "*"
        factor = _scan_atom(scanner, make)
        term = term * factor if times else floordiv(term, factor)
    return term


def _scan_atom(scanner: Scanner, make: Callable[[str], Dim]) -> Dim:
    token = scanner.peek()
    if token.kind == "number" and token.text.isdecimal():
        return int(scanner.next().text)
    if scanner.take("("):
        inner = scan_dim(scanner, make)
        scanner.want(")")
        return inner
    if token.kind != "name":
        raise scanner.error("a size: an integer or a name")
    scanner.next()
    if not scanner.at("("):
        return make(token.text)
    if token.text not in BUILD:
        raise scanner.error(f"one of the functions {', '.join(BUILD)}", token)
    scanner.next()
    arguments = scanner.listed(lambda: scan_dim(scanner, make), ")")
    if len(arguments) != 2:
        raise scanner.fault(f"{token.text} takes 2 sizes, got {len(arguments)}", token)
    return BUILD[token.text](*arguments)
