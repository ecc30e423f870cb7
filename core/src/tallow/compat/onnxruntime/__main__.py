"""python -m tallow.compat.onnxruntime PROGRAM.py ARGUMENTS, or -m MODULE ARGUMENTS: an unmodified program on Tallow."""

from __future__ import annotations

import os
import runpy
import sys

from tallow.compat.onnxruntime.install import install

USAGE = "usage: python -m tallow.compat.onnxruntime (PROGRAM.py | -m MODULE) [ARGUMENT ...]"


def main(words: list[str]) -> int:
    """Runs a program as Python would, with this package in the place of onnxruntime."""
    module = words[1] if words[:1] == ["-m"] and len(words) > 1 else None
    if module is None and (not words or words[0].startswith("-")):
        print(USAGE, file=sys.stderr)
        return 2
    if module is None and not os.path.exists(words[0]):
        print(f"there is no program {words[0]}\n{USAGE}", file=sys.stderr)
        return 2
    install()
    if module is not None:
        sys.argv = words[1:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
