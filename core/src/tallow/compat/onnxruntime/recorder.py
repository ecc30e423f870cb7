"""Profiling of a session: the steps of every run as a Chrome trace, in the form of onnxruntime's files."""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from datetime import datetime
from pathlib import Path

from tallow.compat.onnxruntime.providers import provider_of
from tallow.profile import DEVICE, Profile, StepTime


class Recorder:
    """Collects events; `end` writes them once. A session that goes away without asking writes them too."""

    def __init__(self, owner: object, prefix: str, provider: str, origin: float):
        """`origin`: when time began, by time.perf_counter()."""
        self.start = time.time_ns() - round((time.perf_counter() - origin) * 1e9)
        self._prefix, self._provider, self._origin = prefix, provider, origin
        self._events: list[dict] = []
        self._lock = threading.Lock()
        self._end = weakref.finalize(owner, self._write)

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._origin

    def session_event(self, name: str, begin: float) -> None:
        """Something that began at `begin` and ends now."""
        self._add("Session", name, begin, self.now() - begin, {})

    def run(self, profile: Profile, begin: float) -> None:
        """One run and its steps, laid out one after another from `begin`."""
        at = begin
        for step in profile.steps:
            facts = {"op_name": step.label, "provider": self._provider_of(step)}
            facts |= {"nodes": list(step.nodes), "flops": step.flops, "bytes": step.bytes}
            self._add(
                "Node", f"{step.nodes[0] if step.nodes else step.label}_kernel_time", at, step.seconds, facts
            )
            at += step.seconds
        self.session_event("model_run", begin)

    def _provider_of(self, step: StepTime) -> str:
        if step.place in ("host", "copy"):
            return "host"
        return self._provider if step.place == DEVICE else provider_of(step.place)

    def _add(self, category: str, name: str, begin: float, seconds: float, facts: dict) -> None:
        event = {"cat": category, "pid": os.getpid(), "tid": threading.get_native_id(), "ph": "X"}
        event |= {"name": name, "ts": round(begin * 1e6), "dur": round(seconds * 1e6), "args": facts}
        with self._lock:
            self._events.append(event)

    def end(self) -> str:
        """The name of the file, or "" where it was written before."""
        return self._end() or ""

    def _write(self) -> str:
        stamp = datetime.fromtimestamp(self.start / 1e9).strftime("%Y-%m-%d_%H-%M-%S_%f")[:-3]
        path = f"{self._prefix}_{stamp}.json"
        with self._lock:
            lines = ",\n".join(map(json.dumps, self._events))
        Path(path).write_text(f"[\n{lines}\n]\n")
        return path
