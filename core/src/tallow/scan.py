"""Scanner: the tokens of Tallow's text forms, and errors that say where and what was expected."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import NamedTuple

from tallow.errors import GraphError

# Patterns are compiled when a text is met: an artifact that holds none opens in less time than that takes.
PLAIN = r"[^\W\d][\w.]*"  # names that need no quotes
PLAIN_VALUE = r"[\w./$:-]*[\w./$-]"
_TOKENS = r"""(?x)(?P<space>(?:\s|\#[^\n]*)+)
    |(?P<value>%(?:"(?:[^"\\\n]|\\.)*"|[\w./$:-]*[\w./$-]))
    |(?P<name>[^\W\d][\w.]*)
    |(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<mark>\.\.\.?|//|[-+*/(){}\[\],:=@])
    |(?P<end>\Z)"""


compiled = functools.cache(re.compile)


class Token(NamedTuple):
    """kind: value, name, number, string, mark or end; `start` is where it begins in the text."""

    kind: str
    text: str
    start: int


class Scanner:
    """Tokens of a text, with two of look-ahead."""

    def __init__(self, text: str):
        self.text = text
        self._position = 0
        self._ahead: list[Token] = []

    def peek(self, ahead: int = 0) -> Token:
        while len(self._ahead) <= ahead:
            self._ahead.append(self._read())
        return self._ahead[ahead]

    def next(self) -> Token:
        token = self.peek()
        del self._ahead[0]
        return token

    def _read(self) -> Token:
        while True:
            found = compiled(_TOKENS).match(self.text, self._position)
            if found is None:
                token = Token("mark", self.text[self._position], self._position)
                raise self.error("a name, number, string or sign", token)
            start, self._position = self._position, found.end()
            if found.lastgroup != "space":
                return Token(found.lastgroup, found.group(), start)

    def at(self, text: str, ahead: int = 0) -> bool:
        """Whether a token is this sign or keyword."""
        token = self.peek(ahead)
        return token.text == text and token.kind in ("mark", "name")

    def take(self, text: str) -> bool:
        """Whether the next token is this sign or keyword; steps over it if so."""
        found = self.at(text)
        if found:
            self.next()
        return found

    def want(self, text: str) -> Token:
        """Steps over this sign or keyword; GraphError if something else stands there."""
        if not self.at(text):
            raise self.error(f'"{text}"')
        return self.next()

    def kind(self, kind: str, expected: str) -> Token:
        """The next token, which must be of a kind."""
        if self.peek().kind != kind:
            raise self.error(expected)
        return self.next()

    def listed(self, read: Callable[[], object], close: str) -> list:
        """Items with commas between and perhaps after them, up to a closing sign."""
        items = []
        while not self.take(close):
            items.append(read())
            if not self.take(",") and not self.at(close):
                raise self.error(f'"," or "{close}"')
        return items

    def error(self, expected: str, token: Token | None = None) -> GraphError:
        """What was expected where a token stands (the next one)."""
        token = token or self.peek()
        got = "the end of the text" if token.kind == "end" else repr(token.text)
        return self.fault(f"expected {expected}, got {got}", token)

    def fault(self, message: str, token: Token) -> GraphError:
        """A message with line, column and the line itself."""
        line = self.text.count("\n", 0, token.start) + 1
        first = self.text.rfind("\n", 0, token.start) + 1
        last = self.text.find("\n", first)
        shown = self.text[first : last if last >= 0 else None]
        column = token.start - first
        window = max(0, column - 60)
        return GraphError(
            f"line {line}, column {column + 1}: {message}\n  {shown[window : window + 100]}\n"
            f"  {' ' * (column - window)}^"
        )


def quoted(name: str, plain: str = PLAIN) -> str:
    """A name as it is written: in quotes unless it is plain."""
    return name if compiled(plain).fullmatch(name) else json.dumps(name, ensure_ascii=False)


def unquoted(scanner: Scanner, token: Token) -> str:
    """The name or string that a token writes."""
    text = token.text.removeprefix("%") if token.kind == "value" else token.text
    if not text.startswith('"'):
        return text
    try:
        return json.loads(text, strict=False)
    except ValueError:
        raise scanner.fault(f"bad escape in {text}", token) from None
