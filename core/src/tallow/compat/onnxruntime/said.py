"""What cannot be honoured, said through `logging`: once for each thing, with the reason."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable

LOGGER = logging.getLogger("tallow.compat.onnxruntime")
SEVERITIES = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
_told: set[str] = set()


def cannot_honour(what: str, why: str, severity: int = -1) -> None:
    """One warning for `what` in this process; `severity` is the least that the asker wants to hear, as
    onnxruntime counts them, -1 for what the logger says."""
    if what in _told or severity > 2:
        return
    _told.add(what)
    LOGGER.warning("cannot honour %s: %s", what, why)


def set_default_logger_severity(severity: int) -> None:
    """The least severity to log: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal."""
    severity = operator.index(severity)
    if severity not in range(len(SEVERITIES)):
        raise RuntimeError(
            f"Invalid logging severity {severity}. 0:Verbose, 1:Info, 2:Warning, 3:Error, 4:Fatal"
        )
    LOGGER.setLevel(SEVERITIES[severity])


def set_default_logger_verbosity(verbosity: int) -> None:
    """There are no finer levels."""
    if verbosity:
        cannot_honour(f"set_default_logger_verbosity({verbosity})", "there is one level of verbose messages")


class _Callback(logging.Handler):
    def __init__(self, function: Callable, level: int):
        super().__init__(level)
        self.function = function

    def emit(self, record: logging.LogRecord) -> None:
        severity = max(i for i, level in enumerate(SEVERITIES) if level <= max(record.levelno, logging.DEBUG))
        self.function(severity, "tallow", "", f"{record.pathname}:{record.lineno}", record.getMessage())


def set_default_logger_callback(callback: Callable | None, severity: int = 2) -> None:
    """Messages go to `callback(severity, category, id, place, message)` instead; None ends it."""
    for handler in [h for h in LOGGER.handlers if isinstance(h, _Callback)]:
        LOGGER.removeHandler(handler)
    LOGGER.propagate = callback is None
    if callback is not None:
        LOGGER.addHandler(_Callback(callback, SEVERITIES[severity]))
