"""Threads that spin: chosen against on the command line, said in one line in the library."""

import os
import subprocess
import sys
import warnings

import pytest

import noiser
from noiser.lm import spinning


@pytest.mark.parametrize(
    ("threads", "load", "cores", "environment", "says"),
    [
        (2, 1.0, 2, {}, True),
        (2, 0.2, 2, {}, False),  # nobody else computes
        (1, 3.0, 2, {}, False),  # one thread waits for no other
        (8, 30.0, 64, {}, False),  # there is room
        (32, 40.0, 64, {}, True),
        (2, 1.0, 2, {"OMP_WAIT_POLICY": "PASSIVE"}, False),
        (2, 1.0, 2, {"GOMP_SPINCOUNT": "0"}, False),
        (2, 1.0, 2, {"OMP_WAIT_POLICY": ""}, True),
    ],
)
def test_the_line_is_said_where_threads_spin_on_a_busy_machine(threads, load, cores, environment, says):
    """Mutants: the load ignored; the number of cores ignored; the user's choice ignored; an empty variable taken as a choice."""
    assert bool(spinning.crowding(threads, load, cores, environment)) == says


def test_loading_says_it_once_in_the_library(monkeypatch, tmp_path):
    """Mutants: no warning; a warning on a GPU's behalf is not tested here."""
    monkeypatch.setattr("noiser.lm.load.crowding_here", lambda threads: f"busy, {threads} threads")
    with warnings.catch_warnings(record=True) as said, pytest.raises(noiser.errors.ModelError):
        warnings.simplefilter("always")
        noiser.load(tmp_path / "nothing", device="cpu")
    assert [str(each.message).split(",")[0] for each in said if each.category is RuntimeWarning] == ["busy"]


@pytest.mark.parametrize(
    ("chosen", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "9"}, "None")]
)
def test_the_command_line_waits_passively_unless_the_user_chose(chosen, found):
    """Mutants: the environment set after torch; the user's choice overwritten."""
    code = (
        "import os, sys, noiser.cli\nsys.argv = ['noiser', '--version']\ntry: noiser.cli.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules\nprint(os.environ.get('OMP_WAIT_POLICY'))"
    )
    plain = {name: value for name, value in os.environ.items() if name not in spinning.CHOICES}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**plain, **chosen})
    assert done.stdout.split()[-1] == found
