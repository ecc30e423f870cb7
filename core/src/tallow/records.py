"""Records: what tuning measured, in the cache, for each model of processor by itself.

One file holds them all. Two processes that tune at the same time may lose answers of one of them, which
are then measured again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from tallow import cache
from tallow.choices import Answer

KIND = "tuned"
_KEY = hashlib.sha256(b"records 1").hexdigest()

Record = dict[str, Answer]  # question -> answer


def scope(target: object, threads: int) -> str:
    """What a record is made for, besides the processor."""
    return f"{target} with {threads} threads"


def load(machine: str, scope: str) -> Record:
    """What was measured on a model of processor."""
    return {question: _answer(value) for question, value in _read().get(machine, {}).get(scope, {}).items()}


def elsewhere(machine: str, scope: str, questions: Iterable[str]) -> list[str]:
    """The other processors for which some of the questions have answers."""
    wanted = set(questions)
    return sorted(
        m for m, scopes in _read().items() if m != machine and wanted & scopes.get(scope, {}).keys()
    )


def add(machine: str, scope: str, found: Mapping[str, Answer]) -> None:
    """Keep answers, beside those that are there."""
    everything = _read()
    everything.setdefault(machine, {}).setdefault(scope, {}).update(found)
    cache.store(KIND, _KEY, json.dumps(everything).encode())


def _read() -> dict[str, dict[str, dict]]:
    """processor -> scope -> question -> answer."""
    data = cache.load(KIND, _KEY)
    return {} if data is None else json.loads(data)


def _answer(value: int | list[int]) -> Answer:
    return tuple(value) if isinstance(value, list) else value
