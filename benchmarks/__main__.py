"""`python -m benchmarks [run|build|report|micro] ...`: Tallow against its peers; without a verb, `run`.

run [MODEL]...      build the models, measure every engine on each, and print the tables
build [MODEL]...    only build the models; needs the onnx package, and some also torch and transformers
report FILE...      print the tables of JSON files written before, of different models, as one
micro [FILTER]...   single operators as shares of what one core can do
"""

from __future__ import annotations

import argparse
import importlib
import sys

VERBS = ("run", "build", "report", "micro")


def main(words: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 something failed, 2 misused."""
    words = list(sys.argv[1:] if words is None else words)
    verb = words.pop(0) if words and words[0] in VERBS else "run"
    module = importlib.import_module("benchmarks.micro" if verb == "micro" else "benchmarks.command")
    parser = argparse.ArgumentParser(
        f"python -m benchmarks {verb}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return getattr(module, verb)(parser, words)


if __name__ == "__main__":
    sys.exit(main())
