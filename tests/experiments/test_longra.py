"""Shares of the score on a LongRA prompt. Mutants caught: the distractor's own mention of the cue counted; a token over an edge
given to one side whole; negative scores counted; the word found inside another word."""

from itertools import pairwise

import numpy as np
import pytest

from noiser.experiments.report.longra import shares, spans

TEXT = "We flew to Chile. (Chile was on TV, by chance). We stayed in the capital, Chilean friends said"


def tokens(*stops):
    starts = (0, *stops[:-1])
    return list(zip(starts, stops, strict=True))


def test_the_cue_counts_outside_of_the_parentheses_and_as_a_word_only():
    found = spans(TEXT, "Chile")
    assert [TEXT[start:stop] for start, stop in found["relative"]] == ["Chile"]
    assert found["relative"][0][0] == TEXT.index("Chile")
    assert [TEXT[start:stop] for start, stop in found["capital"]] == ["capital"]
    assert [TEXT[start:stop] for start, stop in found["distractor"]] == ["(Chile was on TV, by chance)"]


def test_shares_add_up_and_a_token_over_an_edge_is_divided_by_its_characters():
    text = "In Rome (no) it"
    offsets = [(0, 2), (2, 7), (7, 12), (12, 15)]
    found = shares([1.0, 2.0, 4.0, -8.0], text, offsets, "Rome")
    assert found == pytest.approx({"relative": 2 / 7, "capital": 0.0, "distractor": 4 / 7, "main part": 1 / 7})
    edge = shares([1.0], "Rome (no)", [(0, 9)], "Rome")
    assert edge == pytest.approx({"relative": 4 / 9, "capital": 0.0, "distractor": 4 / 9, "main part": 1 / 9})
    assert shares([-1.0, 0.0], "a b", [(0, 1), (1, 3)], "b") is None


def test_no_share_is_negative_whatever_overlaps():
    """The cue may be the word `capital` itself; a token without text, the sequence's beginning, has no place."""
    found = shares([5.0, 0.0, 1.0], "the capital", [(0, 0), (0, 3), (3, 11)], "capital")
    assert found == {"relative": 1.0, "capital": 0.0, "distractor": 0.0, "main part": 0.0}
    assert shares([5.0], "the", [(0, 0)], "the") is None
    draw = np.random.default_rng(0)
    for _ in range(200):
        cuts = [0, *sorted(draw.integers(0, len(TEXT), 9).tolist()), len(TEXT)]
        own = shares(draw.normal(size=10).tolist(), TEXT, list(pairwise(cuts)), "Chile")
        assert own is None or (min(own.values()) >= 0 and sum(own.values()) == pytest.approx(1.0))


def test_shares_of_characters_of_their_own_are_lengths():
    """Closed form: a score of 1 for every character without a space is that character's share."""
    places = [place for place, character in enumerate(TEXT) if character != " "]
    found = shares([1.0] * len(places), TEXT, [(place, place + 1) for place in places], "Chile")
    inside = TEXT[TEXT.index("(") : TEXT.index(")") + 1].replace(" ", "")
    expected = np.array([5, 7, len(inside)]) / len(places)
    assert found is not None
    np.testing.assert_allclose([found[part] for part in ("relative", "capital", "distractor")], expected)
    assert sum(found.values()) == pytest.approx(1.0)
