"""How the code is built, in numbers: packages, imports, functions, and how many files a one-line jsonl enters.

    python benchmarks/structure.py [--repo DIR] [--once] [--json]

For each top-level package: `rooms` are its direct modules and sub-packages, `arrows` the pairs of them that import
one another, `cycles` groups of files that import each other in a circle (imports inside functions and for type
checking included). Functions: length in lines from `def` to the end, docstring included; `once` is the share whose
name is unique in the package and referenced exactly once in it. Some of these are no step of one caller: rules and
checks named in a table, callbacks, overrides that call the base's method, what other packages call as well. `one_call`
is the share without those. `own imports inside functions` counts import statements of phiv's modules below a `def`.
`travel` profiles `validate(path, images=False)` of one line, after the imports.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

PACKAGES = {
    "phiv_schemas": "schemas/phiv_schemas",
    "phiv_data": "phiv_data",
    "phiv_converters": "converters/phiv_converters",
    "phiv_train": "phiv_train",
}

TRAVEL = """
import json, sys, tempfile
from pathlib import Path
from phiv_data import validate
line = {"id": "a", "source": "s", "conversations": [{"images": ["a.png"], "user": "What is it?", "assistant": "A fox"}]}
path = Path(tempfile.mkdtemp()) / "one.jsonl"
path.write_text(json.dumps(line) + "\\n")
validate(path, images=False)  # imports
functions, calls, files = set(), 0, set()
def note(frame, event, arg):
    global calls
    name = frame.f_code.co_filename
    if event == "call" and "phiv_" in name and not frame.f_code.co_name.startswith("<"):
        calls += 1
        files.add(name)
        functions.add((name, frame.f_code.co_qualname))
sys.setprofile(note)
validate(path, images=False)
sys.setprofile(None)
print(json.dumps({"files": len(files), "functions": len(functions), "calls": calls}))
"""


@dataclass
class Numbers:
    """What is measured of one package."""

    package: str
    files: int
    lines: int
    rooms: int
    arrows: int
    cycles: int
    functions: int
    p50: int
    p90: int
    longest: int
    once_percent: float
    one_call_percent: float
    own_imports_inside_functions: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--once", action="store_true", help="list the functions that are referenced once")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    modules = {name: path for package in PACKAGES for name, path in modules_of(args.repo, package)}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    rows = [measure(package, modules, trees) for package in PACKAGES]
    travel = subprocess.run([sys.executable, "-c", TRAVEL], capture_output=True, text=True, cwd=args.repo)
    if args.json:
        print(json.dumps({"packages": [asdict(row) for row in rows], "travel": travel.stdout.strip()}))  # noqa: T201  a script's output
        return
    names = list(asdict(rows[0]))
    print("  ".join(names))  # noqa: T201  a script's output
    for row in rows:
        print("  ".join(str(value).rjust(len(name)) for name, value in asdict(row).items()))  # noqa: T201  a script's output
    print(f"a one-line jsonl enters: {travel.stdout.strip() or travel.stderr[-300:]}")  # noqa: T201  a script's output
    if args.once:
        for package in PACKAGES:
            for name, (module, line, length) in sorted(referenced_once(package, trees).items(), key=lambda x: x[1]):
                print(f"{modules[module].relative_to(args.repo)}:{line} {name} ({length} lines)")  # noqa: T201  a script's output


def modules_of(repo: Path, package: str) -> Iterator[tuple[str, Path]]:
    """Every module of a package with its dotted name."""
    root = repo / PACKAGES[package]
    for path in sorted(root.rglob("*.py")):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def measure(package: str, modules: dict[str, Path], trees: dict[str, ast.Module]) -> Numbers:
    own = {name: tree for name, tree in trees.items() if name.split(".")[0] == package}
    imports = {name: set(imported(name, tree, modules)) for name, tree in own.items()}
    rooms = {name.split(".")[1] for name in own if "." in name}
    arrows = {
        (name.split(".")[1], other.split(".")[1])
        for name, others in imports.items()
        for other in others
        if other in own and "." in name and "." in other and name.split(".")[1] != other.split(".")[1]
    }
    lengths = sorted(node.end_lineno - node.lineno + 1 for tree in own.values() for node in functions(tree))
    return Numbers(
        package=package,
        files=len(own),
        lines=sum(len(modules[name].read_text(encoding="utf-8").splitlines()) for name in own),
        rooms=len(rooms),
        arrows=len(arrows),
        cycles=len(cycles({name: others & own.keys() for name, others in imports.items()})),
        functions=len(lengths),
        p50=lengths[len(lengths) // 2],
        p90=lengths[int(len(lengths) * 0.9)],
        longest=lengths[-1],
        once_percent=round(100 * len(referenced_once(package, trees)) / len(lengths), 1),
        one_call_percent=round(100 * len(called_once(package, trees)) / len(lengths), 1),
        own_imports_inside_functions=sum(imports_inside_functions(tree) for tree in own.values()),
    )


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imported(name: str, tree: ast.Module, modules: dict[str, Path]) -> Iterator[str]:
    """The modules of phiv that a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("phiv_"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                target = full if full in modules else node.module
                if target != name:
                    yield target
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules and alias.name != name)


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of files that reach each other, from the sets that each can reach."""
    reach = {name: reachable(graph, name) for name in graph}
    groups = {frozenset(o for o in reach[name] if name in reach[o]) for name in graph if name in reach[name]}
    return [set(group) for group in groups]


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    stack = list(graph[start])
    while stack:
        if (name := stack.pop()) not in seen:
            seen.add(name)
            stack.extend(graph.get(name, ()))
    return seen


def referenced_once(package: str, trees: dict[str, ast.Module]) -> dict[str, tuple[str, int, int]]:
    """Functions with a name of their own that is read exactly once: name -> module, line, length."""
    defined: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    references: Counter[str] = Counter()
    for module, tree in trees.items():
        if module.split(".")[0] != package:
            continue
        for node in functions(tree):
            defined[node.name].append((module, node.lineno, node.end_lineno - node.lineno + 1))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                references[node.id] += 1
            elif isinstance(node, ast.Attribute):
                references[node.attr] += 1
    unique = {name: places[0] for name, places in defined.items() if len(places) == 1 and not name.startswith("__")}
    return {name: place for name, place in unique.items() if references[name] == 1}


def called_once(package: str, trees: dict[str, ast.Module]) -> set[str]:
    """Those of `referenced_once` that are called there, and not on `super()`; without those other packages name."""
    calls: Counter[str] = Counter()
    elsewhere: set[str] = set()
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if module.split(".")[0] != package:
                elsewhere.add(getattr(node, "id", getattr(node, "attr", "")))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                calls[node.func.id] += 1
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                calls[node.func.attr] += ast.unparse(node.func.value) != "super()"
    return {name for name in referenced_once(package, trees) if calls[name] and name not in elsewhere}


def imports_inside_functions(tree: ast.Module) -> int:
    inside = {
        (node.lineno, node.module)
        for function in functions(tree)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("phiv_")
    }
    return len(inside)


if __name__ == "__main__":
    main()
