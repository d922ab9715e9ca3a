"""The wheel alone, with its core dependencies and no extra: the command line explains, and every missing extra says what to install.

Mutants caught: an import of an extra's package at the top of a module that `noiser attribute` loads; an extra moved into the core
without a requirement; a feature that needs an extra without `require_extra`; a data file left out of the wheel.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from noiser.errors import EXTRAS
from tests.conftest import byte_tokenizer, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "src")


def core_distributions(requirements):
    """The installed distributions that these requirements need without extras, and those that they need."""
    found, waiting = {}, [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.marker is not None and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            waiting += [Requirement(line) for line in found[name].requires or ()]
    return found


def link(distribution, folder):
    """Put the distribution's files and folders into `folder`, as links."""
    for name in {Path(file).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        place = folder / name
        if not place.is_symlink():
            place.symlink_to(distribution.locate_file(name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that nothing is left in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    subprocess.run(["cp", "-r", *(ROOT / name for name in SOURCES), copy], check=True)
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, copy], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel and its core dependencies: its Python."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    for distribution in core_distributions(
        [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    ).values():
        link(distribution, packages)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def run(environment, tmp_path_factory):
    """The command line of the wheel in an empty folder, without this process's paths."""
    folder = tmp_path_factory.mktemp("work")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"HF_HUB_OFFLINE": "1", "NOISER_CACHE": str(folder / "cache"), "OPENAI_API_KEY": "none-is-sent"}

    def run(*arguments):
        command = [environment, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=variables, cwd=folder, timeout=300)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model in safetensors format."""
    folder = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_no_extra_is_installed_there(run):
    modules = [module for modules in EXTRAS.values() for module in modules]
    ended = run("-c", f"from importlib.util import find_spec; print([name for name in {modules!r} if find_spec(name)])")
    assert ended.stdout == "[]\n", ended.stderr
    assert "site-packages" in run("-c", "import noiser; print(noiser.__file__)").stdout, "the wheel, not the repository"


def test_it_explains_and_compares(run, model):
    ended = run("-m", "noiser", "attribute", "the cat sat on", "--model", model, "--format", "json", "--set", "samples=2")
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["scores"][0]) == 14
    ended = run("-m", "noiser", "attribute", "the cat sat on", "--model", model, "--granularity", "word", "--out", "page.html")
    assert ended.returncode == 0, ended.stderr
    ended = run("-m", "noiser", "compare", "the cat", "--model", model, "--methods", "occlusion,noiser:bound=none+samples=2")
    assert ended.returncode == 0, ended.stderr
    assert "noiser:bound=none" in ended.stdout


@pytest.mark.parametrize("command", ["attribute", "evaluate", "run", "serve"])
def test_help_is_there(run, command):
    ended = run("-m", "noiser", command, "--help")
    assert ended.returncode == 0, ended.stderr
    assert "Advanced" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("attribute", "the cat", "--model", "MODEL", "--out", "x.svg"), "plots"),
        (("attribute", "the cat", "--model", "MODEL", "--format", "svg"), "plots"),
        (("attribute", "the cat", "--model", "MODEL", "--granularity", "sentence"), "units"),
        (("attribute", "the cat", "--model", "x.gguf"), "gguf"),
        (("attribute", "the cat"), "gguf"),
        (("serve", "--model", "MODEL", "--port", "0"), "web"),
        (("answer", "the cat", "--model", "MODEL", "--judge", "openai:gpt"), "judge"),
        (("answer", "the cat", "--model", "MODEL", "--judge", "llama:x.gguf"), "llama"),
        (("answer", "the cat", "--model", "MODEL", "--words", "treebank"), "units"),
        (("evaluate", "--prompts", "prompts.txt", "--model", "MODEL", "--plots", "plots"), "plots"),
        (("run", "--data", "prompts.jsonl", "--models", "MODEL", "--out", "r", "--engine", "ray"), "ray"),
        (("run", "--data", "prompts.jsonl", "--models", "MODEL", "--out", "r", "--device-map", "auto"), "devices"),
    ],
)
def test_a_missing_extra_is_an_error_that_says_what_to_install(run, model, tmp_path, arguments, extra):
    for name, text in (("prompts.txt", "the cat\n"), ("prompts.jsonl", '{"prompt": "the cat"}\n'), ("x.gguf", "GGUF")):
        (tmp_path / name).write_text(text)
    places = {"MODEL": model} | {name: tmp_path / name for name in ("prompts.txt", "prompts.jsonl", "x.gguf")}
    ended = run("-m", "noiser", *(places.get(word, word) for word in arguments))
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("Error: ")
    assert f"pip install 'noiser[{extra}]'" in ended.stderr
    assert "Traceback" not in ended.stderr
