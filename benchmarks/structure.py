"""The structure of this project in figures: `python -m benchmarks.structure`. docs/architecture.md holds what it printed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parents[1]
PACKAGE = "noiser"
TRACED = """
import sys
from pathlib import Path
source = str(Path({source!r}))
files = set()
def record(frame, event, argument):
    if event == "call" and frame.f_code.co_name != "<module>" and frame.f_code.co_filename.startswith(source):
        files.add(frame.f_code.co_filename[len(source) + 1:])
import noiser
def once():
    print(noiser.attribute(noiser.load({model!r}), "abc", "occlusion"), file=sys.stderr)
once()  # imports everything, so that class bodies and decorators are not counted
sys.setprofile(record)
once()
sys.setprofile(None)
print("\\n".join(sorted(files)))
"""


def modules(source: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {path: ".".join([PACKAGE, *path.relative_to(source).with_suffix("").parts]) for path in sorted(source.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(source: Path) -> dict[str, set[str]]:
    """For each module the modules of the package that it imports, inside functions too."""
    known = modules(source)
    return {name: {found for found in _imported(path, known) if found != name} for name, path in known.items()}


def _imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (each if each in known else node.module for each in submodules)


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    reach = {name: _reachable(graph, name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph if name in reach[name]}
    return sorted(sorted(group) for group in groups)


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


def functions(source: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    for path in modules(source).values():
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines without the docstring."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 2


def documented(source: Path) -> list[bool]:
    """For every public module, class and function: whether it has a docstring."""
    trees = [ast.parse(path.read_text()) for path in modules(source).values()]
    public = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    names = [node for node in _outside_functions(trees) if not node.name.startswith("_")]
    return [ast.get_docstring(node) is not None for node in chain(trees, names) if public]


def _outside_functions(trees: list[ast.Module]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    for tree in trees:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))


def traced(source: Path, model: str) -> list[str]:
    """The files in which a function runs for one attribution: load a model folder, occlusion, print."""
    script = TRACED.format(source=str(source), model=model)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=None)
    return done.stdout.split()


def _spread(values: list[int]) -> str:
    return f"{median(values):g} / {quantiles(values, n=10)[-1]:.0f} / {max(values)}"


def main() -> None:
    """Print the figures."""
    source = Path(sys.argv[1]).resolve() / "src" / PACKAGE if len(sys.argv) > 1 else ROOT / "src" / PACKAGE
    known, graph = modules(source), imports(source)
    lines = [path.read_text().count("\n") for path in known.values()]
    every = list(functions(source))
    packages = sorted({path.parent for path in known.values()} - {source})
    loose = [path.name for path in source.glob("*.py") if path.name not in ("__init__.py", "__main__.py", "_version.py")]
    print(f"files / lines                        {len(known)} / {sum(lines):,}")
    print(f"file median / p90 / max              {_spread(lines)}")
    print(f"function median / p90 / max          {_spread([length(each) for each in every])}")
    print(f"return types                         {sum(each.returns is not None for each in every) / len(every):.1%}")
    print(f"public docstrings                    {sum(documented(source)) / len(documented(source)):.1%}")
    print(f"loose modules                        {len(loose)}: {', '.join(sorted(loose))}")
    print(f"packages at the top / all            {sum(each.parent == source for each in packages)} / {len(packages)}")
    print(f"circles of files                     {len(circles(graph))}")
    for circle in circles(graph):
        print(f"  {', '.join(circle)}")
    print(f"own modules imported, median/p90/max {_spread([len(each) for each in graph.values()])}")
    files = traced(source, "smollm2-135m")
    print(f"files run for one attribution        {len(files)}")
    print("  " + "\n  ".join(files))


if __name__ == "__main__":
    main()
