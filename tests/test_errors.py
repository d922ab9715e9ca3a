"""Errors of packages that are not installed: each names the extra, and every extra is one that pip knows.

Mutants caught: an extra left out of `EXTRAS` or pyproject.toml; `find_spec` asked of the extra's name instead of the modules.
"""

import re
import tomllib
from pathlib import Path

import pytest

from noiser import errors
from noiser.errors import EXTRAS, MissingExtraError, OptionError, require_extra

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_extra_is_in_the_project_and_brings_the_modules_it_names():
    optional = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(optional) - {"all", "test", "dev"}
    for extra, modules in EXTRAS.items():
        packages = {re.split(r"[<>=\[]", requirement)[0] for requirement in optional[extra]}
        assert set(modules) <= packages, extra


def test_all_has_every_extra_and_the_core_has_none():
    (everything,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.fullmatch(r"noiser\[(.*)\]", everything)[1].split(",")) == set(EXTRAS)
    core = {re.split(r"[<>=\[]", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert not core & {module for modules in EXTRAS.values() for module in modules}


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(errors, "find_spec", lambda module: None if module == "uvicorn" else object())
    with pytest.raises(MissingExtraError) as raised:
        require_extra("web", "the web app")
    assert str(raised.value) == "the web app needs uvicorn. Type: pip install 'noiser[web]'"
    assert isinstance(raised.value, OptionError), "the command line exits with 2"


def test_what_is_installed_is_no_error():
    require_extra("plots", "a figure")
