"""Workbench: what is compiled for, and what was measured for it on this machine. Asking needs no compiler."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tallow import records
from tallow.backend import Backend, Target
from tallow.choices import Choices
from tallow.compiled import Tuning
from tallow.errors import InputError, Unavailable


@dataclass(frozen=True, slots=True)
class Workbench:
    """What is compiled for, with how many threads, and the processor here that runs it: `machine`, or ""
    and the reason `why` there is none."""

    backend: Backend
    target: Target
    threads: int
    machine: str
    why: str = ""

    @classmethod
    def of(cls, backend: Backend, target: Target, threads: int) -> Workbench:
        if not hasattr(backend, "machine"):
            return cls(backend, target, threads, "", f"the {backend.name} backend leaves nothing to choose")
        try:
            return cls(backend, target, threads, backend.machine(target))
        except Unavailable as reason:
            return cls(backend, target, threads, "", str(reason))

    @property
    def scope(self) -> str:
        return records.scope(self.target, self.threads)

    def record(self) -> records.Record:
        """What was measured on this machine so far."""
        return records.load(self.machine, self.scope) if self.machine else {}

    def report(self, choices: Choices) -> Tuning:
        """What a program made with these choices says of them."""
        estimated = [c.question for c in choices.made if not c.measured]
        others = records.elsewhere(self.machine, self.scope, estimated) if self.machine else ()
        return Tuning(self.machine, self.threads, choices.made, tuple(others))

    def agrees(self, tuning: Tuning, tuned: bool) -> bool:
        """Whether a program would be compiled the same again; if it is to be `tuned`, nothing is estimated."""
        record = self.record()
        same = all(record.get(c.question) == c.record for c in tuning.choices)
        return same and not (tuned and tuning.measured < len(tuning.choices))


def threads_or_default(threads: int | None) -> int:
    """The number of threads that is given, or that of all cores; InputError for what is none."""
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise InputError(f"threads = {threads!r}: expected 1 or more")
    return threads or default_threads()


def default_threads() -> int:
    """All cores; backends use no more than they may."""
    given = os.environ.get("TALLOW_THREADS") or str(os.cpu_count() or 1)
    if not given.isdecimal() or int(given) < 1:
        raise InputError(f"TALLOW_THREADS = {given!r}: expected a number of 1 or more")
    return int(given)
