"""Named spans cover what they name, lie inside each other and never cross, and scores summed over them are conserved.

Mutants caught, each run: the largest span instead of the innermost; the first of two equal ones; a span that begins inside another and
ends behind it let through; `<` for `<=` where one span begins as another ends; a name that comes twice; a span cut one character short.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiser.errors import OptionError
from noiser.text.prompt import Prompt
from noiser.text.spans import NamedSpan, innermost, merged, read_spans
from noiser.text.units import units

TEXT = "Für 12 € 🙂 the  cafe\n\nopens. And Ω?"
LENGTH = len(TEXT)


def one_token_per_character(text=TEXT, spans=()):
    offsets = tuple((n, n + 1) for n in range(len(text)))
    return Prompt(text, tuple(range(len(text))), tuple(text), (False,) * len(text), offsets, spans=tuple(spans))


@st.composite
def nested(draw, start=0, stop=LENGTH, depth=0, prefix="s"):
    """Spans that lie inside [start, stop) and never cross; some are empty."""
    cuts = sorted(draw(st.lists(st.integers(start, stop), min_size=0, max_size=4)))
    spans = []
    for number, (first, last) in enumerate(zip(cuts[::2], cuts[1::2], strict=False)):
        name = f"{prefix}{number}"
        spans.append({"name": name, "start": first, "stop": last})
        if depth < 2 and first < last:
            spans += draw(nested(first, last, depth + 1, f"{name}."))
    return spans


@settings(max_examples=200, deadline=None)
@given(nested(), st.data())
def test_spans_cover_and_conserve(spans, data):
    """Against the definition: a character is in the smallest span that holds it, and all scores are somewhere."""
    read = read_spans(data.draw(st.permutations(spans)), TEXT)
    assert sorted((span.name, span.start, span.stop) for span in read) == sorted((s["name"], s["start"], s["stop"]) for s in spans)
    prompt = one_token_per_character(spans=read)
    if not read:
        with pytest.raises(OptionError, match="no named spans"):
            units(prompt, "span")
        return
    found = units(prompt, "span")
    for place, unit in enumerate(found.of):
        holding = [s for s in spans if s["start"] <= place < s["stop"]]
        assert (unit is None) == (not holding)
        if unit is not None:
            smallest = min(s["stop"] - s["start"] for s in holding)
            assert found.texts[unit] in {s["name"] for s in holding if s["stop"] - s["start"] == smallest}
    scores = np.random.default_rng(0).normal(size=(2, len(TEXT)))
    sums, rest = found.sums(scores)
    np.testing.assert_allclose(sums.sum(-1) + rest, scores.sum(-1))


def test_of_two_equal_spans_a_token_belongs_to_the_one_that_lies_inside():
    spans = read_spans([NamedSpan("outer", 2, 9), NamedSpan("inner", 2, 9)], TEXT)
    assert [span.name for span in spans] == ["outer", "inner"]
    assert innermost(spans, [(3, 4)], TEXT) == [1]


def test_tokens_out_of_order_are_all_looked_at():
    assert innermost(read_spans([NamedSpan("a", 0, 5)], TEXT), [(0, 1), (8, 9), (1, 2)], TEXT) == [0, None, 0]


@settings(max_examples=100, deadline=None)
@given(nested(), st.lists(st.tuples(st.integers(0, LENGTH), st.integers(0, 6)), max_size=12), st.booleans())
def test_the_innermost_span_of_tokens_in_any_order(spans, tokens, in_order):
    """Against all spans tried on every token: some tokens are empty, overlap, or are out of order, as special ones can be."""
    read = read_spans(spans, TEXT)
    offsets = [(start, min(start + size, LENGTH)) for start, size in (sorted(tokens) if in_order else tokens)]
    for offset, found in zip(offsets, innermost(read, offsets, TEXT), strict=True):
        holding = [number for number, span in enumerate(read) if span.holds(offset, TEXT)]
        sizes = {number: read[number].stop - read[number].start for number in holding}
        assert found == max((n for n in holding if sizes[n] == min(sizes.values())), default=None)


@pytest.mark.parametrize(
    ("token", "inside"),
    [((0, 4), True), ((0, 3), False), ((4, 8), False), ((4, 6), True), ((4, 4), True), ((2, 2), False)],
    ids=["half of it", "a third", "only its space", "a token of spaces", "empty inside", "empty at the edge"],
)
def test_a_token_at_an_edge_counts_if_half_of_it_is_inside(token, inside):
    assert NamedSpan("s", 2, 6).holds(token, "abcd  efghij") == inside


def test_a_fragment_of_a_character_belongs_to_the_characters_span():
    """Four tokens of one smiley have the same offsets."""
    start = TEXT.index("🙂")
    offsets = ((start, start + 1),) * 4
    prompt = Prompt(TEXT, (1, 2, 3, 4), ("<0xF0>",) * 4, (False,) * 4, offsets, spans=read_spans([NamedSpan("it", start, start + 1)], TEXT))
    assert units(prompt, "span").of == (0, 0, 0, 0)


WRONG = {
    "a text": ("doc", "spans are a list"),
    "one span without a list": ({"name": "a", "start": 0, "stop": 1}, "spans are a list"),
    "no stop": ([{"name": "a", "start": 0}], "fields name, start and stop"),
    "another field": ([{"name": "a", "start": 0, "stop": 1, "end": 2}], "fields name, start and stop"),
    "no name": ([{"name": " ", "start": 0, "stop": 1}], "not empty"),
    "a float": ([{"name": "a", "start": 0.0, "stop": 1}], "count characters from 0"),
    "a boolean": ([{"name": "a", "start": False, "stop": 1}], "count characters from 0"),
    "backwards": ([{"name": "a", "start": 3, "stop": 1}], "count characters from 0"),
    "negative": ([{"name": "a", "start": -3, "stop": 1}], "count characters from 0"),
    "beyond the text": ([{"name": "a", "start": 0, "stop": len(TEXT) + 1}], f"ends at character {len(TEXT) + 1}"),
    "twice": ([{"name": "a", "start": 0, "stop": 1}, {"name": "a", "start": 4, "stop": 5}], "'a' came twice"),
    "crossing": ([{"name": "a", "start": 0, "stop": 4}, {"name": "b", "start": 2, "stop": 6}], "'a' and 'b' cross"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_spans_are_refused(case):
    given_spans, message = WRONG[case]
    with pytest.raises(OptionError, match=message):
        read_spans(given_spans, TEXT)


def test_spans_that_touch_do_not_cross():
    assert len(read_spans([NamedSpan("a", 0, 4), NamedSpan("b", 4, 9), NamedSpan("c", 0, len(TEXT))], TEXT)) == 3


def test_a_prompt_that_is_cut_keeps_what_is_left_of_its_spans():
    prompt = one_token_per_character(spans=read_spans([NamedSpan("a", 0, 5), NamedSpan("b", 5, 12), NamedSpan("c", 12, 20)], TEXT))
    assert [vars(span) for span in prompt.cropped(9).spans] == [
        {"name": "a", "start": 0, "stop": 5},
        {"name": "b", "start": 5, "stop": 9},
    ]


def test_an_outer_span_gives_way_to_an_inner_one_that_crosses_it_or_has_its_name():
    outer = [NamedSpan("a", 0, 5), NamedSpan("b", 5, 12), NamedSpan("c", 12, 20)]
    found = merged(outer, [NamedSpan("c", 1, 2), NamedSpan("d", 10, 14)])
    assert [(span.name, span.start) for span in found] == [("a", 0), ("c", 1), ("d", 10)]
