"""Lists and mistyped names answer without torch, and say what the registry would say."""

import subprocess
import sys

import pytest

from noiser.cli import catalogue
from noiser.errors import OptionError
from noiser.methods import parse
from noiser.metrics import parse as parse_metric


def test_the_file_is_what_is_registered():
    """Made by: python -c "from noiser.cli.catalogue import rewrite; rewrite()". Mutant: a default changed in a signature only."""
    assert catalogue.registered() == catalogue._written()


WITHOUT_TORCH = """
import sys
from noiser.cli import main
for line in sys.argv[2:]:
    sys.argv = ["noiser", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert (end.code or 0) == int(line.startswith("status")) + 2 * ("wrong" in line), (line, end.code)
    slow = {"torch", "transformers", "scipy"} & set(sys.modules)
    assert not slow, f"noiser {line} imported {slow}"
"""


def test_lists_and_mistyped_names_need_no_torch(tmp_path):
    """Mutant: `import noiser.methods` at the top of the compare command. The effect: with it the same process imports torch."""
    lines = [
        "methods", "methods --format json", "evaluate --list", "data list", f"status {tmp_path}",
        "attribute x --method wrong", "attribute x --set steps=wrong", "compare x --methods noiser,wrong",
        "check --methods wrong", "check --metrics wrong", "answer x --method wrong",
        f"evaluate --prompts {__file__} --methods wrong", f"evaluate --prompts {__file__} --metrics wrong",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, "", *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("there is no method") == 5 and done.stderr.count("there is no metric") == 2


@pytest.mark.parametrize(
    ("kind", "full", "label"),
    [
        ("methods", parse, "nosier"),
        ("methods", parse, "noiser:step=3"),
        ("methods", parse, "noiser:steps=0"),
        ("methods", parse, "noiser:samples=many"),
        ("methods", parse, "noiser:norm=l9"),
        ("methods", parse, "noiser:pairs=maybe"),
        ("methods", parse, "random:x=1"),
        ("metrics", parse_metric, "soft"),
        ("metrics", parse_metric, "aopc:draws=0"),
    ],
)
def test_errors_are_the_registrys(kind, full, label):
    """Mutants: the label's own options not checked; the range not checked."""
    with pytest.raises(OptionError) as early:
        catalogue.check(kind, [label])
    with pytest.raises(OptionError) as late:
        full(label)
    assert str(early.value) == str(late.value)


def test_what_fits_or_is_not_known_here_passes(monkeypatch):
    """Mutants: `inseq:` not skipped; other packages' methods refused, or missing from the list."""
    catalogue.check("methods", ["noiser:bound=rms+samples=auto+scale=4", "inseq:saliency", "lime"], {"seed": "3"})
    with pytest.raises(OptionError, match="no method 'mine'"):
        catalogue.check("methods", ["mine"])
    monkeypatch.setattr(catalogue, "entry_points", lambda group: [group] if group == "noiser.methods" else [])
    catalogue.check("methods", ["mine"])
    assert {each["name"] for each in catalogue.listed("methods")} == {each["name"] for each in catalogue._written()["methods"]}
