"""Measure the house: how long files and functions are, how many imports a file has, and how far the arithmetic is.

    python scripts/measure_house.py            # a table of figures, and every place that is beyond its bound
    python scripts/measure_house.py --json

A hop is one call from a function of ours to another one of ours, followed by name through the code: the fewest calls
that lead from the start to the end. Duplicated blocks are runs of six or more equal lines of code.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).resolve().parent.parent / "autoprune"
LONGEST_FUNCTION, LONGEST_FILE, MOST_IMPORTS, DUPLICATE_LINES = 40, 300, 20, 6
TRIPS = {  # name → start, end, most hops
    "from the search to the training steps": ("search.session:run_search", "training.loop:_take_steps", 8),
    "from the search to the cut of a tensor": ("search.session:run_search", "pruning.surgery:_shrink_one", 8),
    "from the loop to the surgery": ("search.loop:search", "pruning.surgery:shrink", 6),
}
READERS_AND_WRITERS = ("to_json", "from_json")


def modules() -> dict[str, ast.Module]:
    """Return module path below ``autoprune`` → its syntax tree."""
    names = {".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in sorted(HOUSE.rglob("*.py"))}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8")) for name, path in names.items()}


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield (qualified name, function) of a module; inner functions belong to the one around them."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        if isinstance(node, ast.ClassDef):
            yield from (
                (f"{node.name}.{inner.name}", inner) for inner in node.body if isinstance(inner, ast.FunctionDef)
            )


def long_functions(trees: dict[str, ast.Module]) -> list[str]:
    """Return functions of more than 40 lines, docstring and all."""
    return [
        f"{module}:{name} has {length} lines"
        for module, tree in trees.items()
        for name, node in functions(tree)
        if (length := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION
    ]


def long_files() -> list[str]:
    """Return files of more than 300 lines."""
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(HOUSE.rglob("*.py"))}
    return [f"{path.relative_to(HOUSE)} has {count} lines" for path, count in counts.items() if count > LONGEST_FILE]


def many_imports(trees: dict[str, ast.Module]) -> list[str]:
    """Return files that import from more than 20 of our own."""
    found = []
    for module, tree in trees.items():
        ours = {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoprune")
        }
        if len(ours) > MOST_IMPORTS:
            found.append(f"{module} imports from {len(ours)} files")
    return found


def duplicates() -> list[str]:
    """Return runs of six or more equal lines of code that stand in two places; imports and brackets do not count."""
    seen: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for path in sorted(HOUSE.rglob("*.py")):
        numbered = [(n, line.strip()) for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)]
        lines = [
            (n, line)
            for n, line in numbered
            if len(line) > 3 and not line.startswith(("#", "import ", "from ", '"""', "@"))
        ]
        for start in range(len(lines) - DUPLICATE_LINES + 1):
            run = tuple(line for _, line in lines[start : start + DUPLICATE_LINES])
            seen[run].append(f"{path.relative_to(HOUSE)}:{lines[start][0]}")
    return [" = ".join(places) for places in seen.values() if len(places) > 1]


def untyped(trees: dict[str, ast.Module]) -> list[str]:
    """Return public signatures and fields with ``[str, Any]``; a type's own reader and writer aside."""
    found = []
    for module, tree in trees.items():
        for name, node in functions(tree):
            last = name.rpartition(".")[2]
            if last.startswith("_") or last.endswith(READERS_AND_WRITERS):
                continue
            arguments = [*node.args.args, *node.args.kwonlyargs]
            hints = [hint for hint in (*(a.annotation for a in arguments), node.returns) if hint is not None]
            if any("[str, Any]" in ast.unparse(hint) for hint in hints):
                found.append(f"{module}:{name}")
        for node in (each for each in tree.body if isinstance(each, ast.ClassDef)):
            fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
            found += [f"{module}:{node.name}.{ast.unparse(f.target)}" for f in fields if "[str, Any]" in ast.unparse(f)]
    return found


def calls(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Return ``module:function`` → what it may call: functions by their import, methods by their name."""
    methods: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for name, _ in functions(tree):
            if "." in name:
                methods[name.partition(".")[2]].add(f"{module}:{name}")
    found: dict[str, set[str]] = {}
    for module, tree in trees.items():
        known = _names(module, tree)
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        for name, node in functions(tree):
            inside: set[str] = set()
            parameters = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)} - {"self", "cls"}
            for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
                inside |= _targets(call.func, known, methods, parameters)
            if name.partition(".")[0] in classes:
                inside.discard(f"{module}:{name}")
            found[f"{module}:{name}"] = inside
    return found


def _names(module: str, tree: ast.Module) -> dict[str, str]:
    """Return name in a module → the ``module:function`` that it stands for."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("autoprune."):
            source = (node.module or "").removeprefix("autoprune.")
            known |= {alias.asname or alias.name: f"{source}:{alias.name}" for alias in node.names}
    return known | {name: f"{module}:{name}" for name, _ in functions(tree) if "." not in name}


def _targets(called: ast.expr, known: dict[str, str], methods: dict[str, set[str]], parameters: set[str]) -> set[str]:
    if isinstance(called, ast.Name):
        if called.id in parameters:
            return methods["__call__"]  # whatever can be called
        return {known[called.id]} if called.id in known else set()
    if isinstance(called, ast.Attribute):
        return methods.get(called.attr, set())
    return set()


def shortest(graph: dict[str, set[str]], start: str, end: str) -> list[str]:
    """Return the fewest calls that lead from one function to another, both named; empty if none do."""
    before: dict[str, str] = {start: ""}
    waiting = deque([start])
    while waiting:
        now = waiting.popleft()
        if now == end:
            path = [now]
            while before[path[-1]]:
                path.append(before[path[-1]])
            return path[::-1]
        for after in sorted(graph.get(now, ())):
            if after not in before:
                before[after] = now
                waiting.append(after)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    trees = modules()
    graph = calls(trees)
    trips = {name: shortest(graph, start, end) for name, (start, end, _) in TRIPS.items()}
    found = {
        f"functions over {LONGEST_FUNCTION} lines": long_functions(trees),
        f"files over {LONGEST_FILE} lines": long_files(),
        f"files with more than {MOST_IMPORTS} imports of ours": many_imports(trees),
        f"blocks of {DUPLICATE_LINES} equal lines": duplicates(),
        "public signatures and fields with [str, Any] (bound: 60)": untyped(trees),
    }
    if options.json:
        print(json.dumps({"beyond": found, "hops": {name: len(path) - 1 for name, path in trips.items()}}, indent=1))
        return
    for name, places in found.items():
        print(f"{name}: {len(places)}", *places, sep="\n  ")
    for name, path in trips.items():
        print(f"{name}: {len(path) - 1} hops (bound: {TRIPS[name][2]})", *path, sep="\n  ")


if __name__ == "__main__":
    main()
