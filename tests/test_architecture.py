"""The rooms stand as docs/architecture.md draws them: imports point left, no circle of files, slow libraries load late.

Mutants caught: an import of `noiser.judges` in `lm`; a view that imports `lm`; two files of one room that import each other;
`import torch` in a results file; a file of 401 lines; a public function without a docstring or a return type.
"""

import ast
import subprocess
import sys
from itertools import permutations

import pytest
from benchmarks.structure import PACKAGE, ROOT, circles, functions, imports, length, modules

SOURCE = ROOT / "src" / PACKAGE
RANKS = [
    {"errors", "rng", "_version"},
    {"storage", "registry", "options", "text", "http"},
    {"results", "data"},
    {"lm", "views"},
    {"methods", "judges"},
    {"metrics", "attribution"},
    {"evaluation"},
    {"web", "experiments", "integrations"},
    {"cli"},
    {"__main__"},
]
"""A room imports what stands before it. Rooms of one rank do not import each other, except for `ALLOWED`."""
ALLOWED = {("registry", "text"), ("registry", "options")}
FORBIDDEN = {("views", "lm"), *permutations(("methods", "judges"), 2)}
NO_TORCH = ("results", "views", "text", "data", "registry", "options", "storage")
SLOW = ("torch", "transformers", "matplotlib", "starlette", "uvicorn", "inseq", "openai", "nltk", "xllamacpp", "accelerate", "gguf")


def room(module: str) -> str:
    return module.split(".")[1]


def inner(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the package's own `__init__`, which offers the public names of all rooms."""
    return {module: found - {PACKAGE} for module, found in graph.items() if module != PACKAGE}


def test_every_room_has_a_rank():
    assert {room(module) for module in inner(imports(SOURCE))} == set().union(*RANKS)


def test_imports_point_left():
    rank = {name: place for place, names in enumerate(RANKS) for name in names}
    wrong = []
    for module, found in inner(imports(SOURCE)).items():
        for other in found:
            pair = here, there = room(module), room(other)
            level = rank[there] == rank[here] and here != there and pair not in ALLOWED
            if rank[there] > rank[here] or level or pair in FORBIDDEN:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_no_circle_of_files():
    assert circles(imports(SOURCE)) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]], "the check itself finds circles"


def test_results_and_views_do_not_import_torch():
    for name in NO_TORCH:
        paths = [path for module, path in modules(SOURCE).items() if module != PACKAGE and room(module) == name]
        for path in paths:
            tree = ast.parse(path.read_text())
            found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {each for each in found if each.split(".")[0] in ("torch", "transformers")}, path


@pytest.mark.parametrize(
    "statement", ["import noiser", "import noiser.cli", "import noiser.registry, noiser.results.evaluation, noiser.views"]
)
def test_slow_libraries_load_late(statement):
    code = f"{statement}\nimport sys\nprint([name for name in {SLOW} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_files_and_functions_stay_small():
    for path in modules(SOURCE).values():
        assert path.read_text().count("\n") <= 400, f"{path}: which room is missing?"
    lengths = sorted(length(each) for each in functions(SOURCE))
    assert lengths[-1] <= 41
    assert lengths[int(0.9 * len(lengths))] <= 20


def test_every_function_names_its_return_type():
    assert not [each.name for each in functions(SOURCE) if each.returns is None and each.name != "__init__"]


def test_everything_public_has_a_docstring():
    for path in modules(SOURCE).values():
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"
