"""The house stands as it is drawn: imports point left, what is slow to import comes late, files stay small."""

import ast
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "noiser"
ROOMS = [
    {
        "errors",
        "places",
        "seeding",
        "normalization",
        "prompts",
        "spans",
        "units",
        "agreement",
        "curves",
        "showing",
        "types",
        "registry",
        "stats",
        "evidence",
        "summary",
        "answers",
        "verdicts",
        "judging",
        "replies",
        "reading",
        "cases",
        "store",
    },
    {"lm", "data"},
    {"methods", "metrics", "judges", "views"},
    {"attribution", "screening"},
    {"comparison", "evaluation"},
    {"removal"},
    {"sanity", "experiments", "answering"},
    {"web"},
    {"commands"},
    {"cli", "integrations"},
    {"__main__"},
]
APART = {
    *permutations(("methods", "metrics", "judges", "views"), 2),
    ("views", "lm"),
    ("evaluation", "comparison"),
    ("comparison", "evaluation"),
    ("data", "lm"),
    ("lm", "data"),
}
"""Rooms of which the first never imports the second although it could: views show results, they do not run models."""
SLOW = ("torch", "transformers", "matplotlib", "starlette", "uvicorn", "inseq", "openai", "nltk", "xllamacpp")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(parts):
    return parts[0].removesuffix(".py")


def test_imports_point_left():
    rank = {name: place for place, names in enumerate(ROOMS) for name in names}
    files = [path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE]
    assert {room(path.relative_to(SOURCE).parts) for path in files} == set(rank), "a new room belongs into ROOMS and docs/architecture.md"
    for path in files:
        here = room(path.relative_to(SOURCE).parts)
        for module in imports(path):
            if module.startswith("noiser."):
                there = module.split(".")[1]
                assert rank[there] <= rank[here], f"{path.name} imports {module}, which lies to its right"
                assert (here, there) not in APART, f"{path.name} imports {module}"


@pytest.mark.parametrize(
    "statement", ["import noiser", "import noiser.cli", "import noiser.registry, noiser.results.attribution, noiser.views"]
)
def test_what_is_slow_to_import_comes_late(statement):
    code = f"{statement}\nimport sys\nprint([name for name in {SLOW} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_files_and_functions_stay_small():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 300, f"{path.name}: which room is missing?"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                size = (node.end_lineno or 0) - first.lineno + 1
                assert size <= 40, f"{path.name}: {node.name} has {size} lines"


def test_every_public_thing_says_what_it_does():
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
