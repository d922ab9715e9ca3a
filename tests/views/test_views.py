"""What is shown is what was computed, and is safe to show.

Mutants caught: bars scaled by the sum instead of the largest; a negative bar drawn like a positive one; escapes left in;
normalisation that overwrites the scores; a softmax that overflows.
"""

import copy
import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import t

from noiser.errors import OptionError
from noiser.results.attribution import Attribution, Comparison, Cost, Target
from noiser.results.scores import NORMALIZATIONS, normalize
from noiser.rng import generator
from noiser.text.prompt import Prompt
from noiser.views.labels import visible
from noiser.views.palette import BAR_WIDTH
from noiser.views.terminal.attribution import heatmap, plain_text, to_text


def attribution(scores, tokens=None, **notes):
    tokens = tuple(tokens or [f" t{n}" for n in range(len(scores))])
    prompt = Prompt("".join(tokens), tuple(range(len(tokens))), tokens, (False,) * len(tokens))
    shown = {"k": 0.25, "k_status": "found", "warnings": [], **notes}
    return Attribution(
        np.array([scores]), prompt, (Target((5,), (" x",), 0.5, 0),), "noiser", {}, "m", "r", 0, Cost(1.5, 1234, 10, 2**30), shown
    )


def test_text_shows_every_token_with_its_score_and_a_bar_of_its_share():
    lines = to_text(attribution([0.4, -0.2, 0.1])).splitlines()
    rows = [line for line in lines if line.startswith(("+", "-"))]
    assert [row.split()[0] for row in rows] == ["+0.4000", "-0.2000", "+0.1000"]
    assert [row.count("\u2588") for row in rows] == [BAR_WIDTH, 0, BAR_WIDTH // 4]
    assert [row.count("\u2592") for row in rows] == [0, BAR_WIDTH // 2, 0]
    assert [row.split()[-1] for row in rows] == ["\u00b7t0", "\u00b7t1", "\u00b7t2"]
    assert "k = 0.2500 (found) \u00b7 1.5 s \u00b7 1,234 token-forwards" in "\n".join(lines)


def test_intervals_and_uncertain_ranks_are_shown_and_only_where_there_are_any():
    """Mutants: one standard error for the 95 % interval; ranks where they are certain; intervals of scores that were normalised."""
    drawn = replace(attribution([0.4, -0.2, 0.1, 0.09]), stderr=np.array([[0.01, 0.0, 0.02, 0.01]]), dof=(9,))
    lines = to_text(drawn).splitlines()
    rows = [line for line in lines if line.startswith(("+", "-"))]
    half = 0.01 * t.ppf(0.975, 9)
    assert [row.split("  ")[0] for row in rows] == [
        f"+0.4000 \u00b1 {half:.4f}", "-0.2000 \u00b1 0.0000", f"+0.1000 \u00b1 {2 * half:.4f}", f"+0.0900 \u00b1 {half:.4f}",
    ]  # fmt: skip
    assert ["ranks 2-3" in row for row in rows] == ["ranks" in row for row in rows] == [False, False, True, True]
    assert "\u00b1: 95 % interval of each score" in to_text(drawn)
    assert "\u00b1" not in plain_text(heatmap(drawn, "abs_l1"))
    words = plain_text(heatmap(drawn, by="word"))
    assert f"\u00b1 {2 * half:.4f}" in words
    assert "\u00b1" not in to_text(attribution([0.4, -0.2]))
    exact = replace(drawn, stderr=None, dof=None, method="occlusion", label="occlusion", seed=None)
    shown = str(Comparison((drawn, exact)))
    assert f"+0.4000 \u00b1 {half:.4f} +0.4000" in " ".join(shown.split())
    assert "\u00b1" not in str(Comparison((exact,)))


def test_colour_is_orange_for_support_blue_for_opposition():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor")
    console.print(heatmap(attribution([1.0, -1.0, 0.0])))
    shown = console.file.getvalue()
    assert "48;2;255;120;0m t0" in shown
    assert "48;2;70;150;255m t1" in shown
    assert "\x1b[0m t2\x1b" in shown, "a token that does nothing has no background"


def test_a_long_prompt_shows_its_strongest_tokens_and_says_so():
    shown = to_text(attribution([0.001] * 60 + [0.5]))
    assert "strongest 40 of 61" in shown
    assert "+0.5000" in shown


@given(st.text())
def test_nothing_that_steers_a_terminal_gets_through(text):
    shown = visible(text)
    assert not any(ord(c) < 32 or ord(c) == 127 or c in "\u202e\u200b\u2066\x9b" for c in shown)
    assert [c for c in text if c.isascii() and c.isprintable()] == [c for c in text if visible(c) == c and c.isascii()]


def test_markup_and_escapes_in_tokens_are_shown_as_they_are():
    shown = to_text(attribution([0.5, 0.2], ["[red]x[/red]", "\x1b[31m\u202e"], warnings=["a\x1bb"]))
    assert "[red]x[/red]" in shown
    assert "\\x1b[31m\\u202e" in shown
    assert "\x1b" not in shown


def test_an_attribution_can_be_pickled_and_copied():
    ours = attribution([0.5, -0.5])
    for twin in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert twin.to_json() == ours.to_json()
        assert not twin.scores.flags.writeable


def test_json_is_strict_and_scores_are_read_only():
    ours = attribution([0.5, -0.5])
    assert json.loads(ours.to_json(), parse_constant=pytest.fail)["scores"] == [[0.5, -0.5]]
    with pytest.raises(ValueError, match="read-only"):
        ours.scores[0, 0] = 1
    with pytest.raises(ValueError, match="not JSON compliant"):
        attribution([0.1], k=float("nan")).to_json()


rows = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=1, max_size=9).map(lambda row: np.array([row]))


@given(rows)
def test_normalizations(row):
    before = row.copy()
    for how in ("clip_l1", "abs_l1", "softmax"):
        shares = normalize(row, how)
        assert shares.min() >= 0
        assert shares.sum() == pytest.approx(1) or not shares.any()
    assert (normalize(row, "softmax").argmax() == row.argmax()) or np.isclose(row.max(), np.partition(row[0], -1)[-1])
    assert normalize(row, "minmax").max() == (1 if row.max() > row.min() else 0)
    assert (normalize(row, "none") == row).all()
    assert (row == before).all(), "the scores themselves are never changed"


def test_normalizations_by_hand():
    row = np.array([[0.3, -0.1, 0.2]])
    by_hand = {
        "none": [0.3, -0.1, 0.2],
        "clip_l1": [0.6, 0, 0.4],
        "abs_l1": [0.5, 1 / 6, 1 / 3],
        "minmax": [1, 0, 0.75],
        "signed_sum": [0.75, -0.25, 0.5],
        "softmax": list(np.exp([0.3, -0.1, 0.2]) / np.exp([0.3, -0.1, 0.2]).sum()),
    }
    assert set(by_hand) == set(NORMALIZATIONS)
    for how, expected in by_hand.items():
        np.testing.assert_allclose(normalize(row, how)[0], expected)
    assert np.isfinite(normalize(np.array([[1000.0, -1000.0]]), "softmax")).all()
    with pytest.raises(OptionError, match="signs would mean nothing"):
        normalize(-row, "signed_sum")
    with pytest.raises(OptionError, match="no normalization 'l7'"):
        normalize(row, "l7")


def test_randomness_is_named_by_its_key():
    draws = [
        generator(*key).standard_normal(4).tolist()
        for key in ((0, (1, 2), "noise"), (0, (1, 2), "scale"), (1, (1, 2), "noise"), (0, (12,), "noise"))
    ]
    assert len({tuple(draw) for draw in draws}) == 4
    assert draws[0] == generator(0, (1, 2), "noise").standard_normal(4).tolist()
    assert generator(0, "fixed").integers(0, 2**32, 3).tolist() == [3779655, 2610863739, 642422674], "the same on every machine"
