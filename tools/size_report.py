"""Size report: lines of modules and functions, and import cycles; fails when a budget is broken."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

MODULE_LINES, FUNCTION_LINES = 480, 90
ROOTS = ("core/src", "importers/src", "plugins/cpu/src", "plugins/opencl/src", "plugins/cuda/src")


def functions(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name, node.end_lineno - node.lineno + 1


def imports(tree: ast.Module, package: str) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package):
            found.add(node.module)
            found.update(f"{node.module}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Import):
            found.update(a.name for a in node.names if a.name.startswith(package))
    return found


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected groups of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = []
            while True:
                group.append(stack.pop())
                if group[-1] == name:
                    break
            if len(group) > 1:
                found.append(group)

    for name in graph:
        if name not in index:
            visit(name)
    return found


def main() -> int:
    failed = False
    graph: dict[str, set[str]] = {}
    total = 0
    for root in ROOTS:
        for path in sorted(Path(root).rglob("*.py")):
            text = path.read_text()
            tree = ast.parse(text)
            lines = text.count("\n")
            total += lines
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = imports(tree, "tallow")
            if lines > MODULE_LINES:
                failed = True
                print(f"{path}: {lines} lines, budget {MODULE_LINES}")
            for function, length in functions(tree):
                if length > FUNCTION_LINES:
                    failed = True
                    print(f"{path}: {function} has {length} lines, budget {FUNCTION_LINES}")
    known = {
        name: {o for o in others if o in graph and o != name and not name.startswith(o + ".")}
        for name, others in graph.items()
    }
    for group in cycles(known):
        failed = True
        print("import cycle:", " ".join(sorted(group)))
    print(f"{len(graph)} modules, {total} lines")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
