"""Words of a continuation that are explained as a whole: found as exact text, covered by the fewest tokens that hold them.

Bugs that these tests are for: characters counted where tokens have bytes; a token counted that only touches the words; the first of several
places taken silently; spaces that WordPiece leaves out searched for; the words looked up in the prompt too.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import noiser
from noiser.errors import OptionError
from noiser.lm.explained_words import find_words
from tests.conftest import byte_tokenizer, tiny
from tests.tokenizers_built_here import byte_level, metaspace, tokens, word_piece

TEXT = " Paris, the 🙂 city, in the north"


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


BYTES, MERGED = tokens(byte_tokenizer()), tokens(byte_level())


def smallest_window(read, ids, words):
    """Brute force: the shortest run of tokens whose bytes hold the words."""
    windows = [(stop - start, start, stop) for start in range(len(ids)) for stop in range(start + 1, len(ids) + 1)]
    return next((start, stop) for _, start, stop in sorted(windows) if words.encode() in b"".join(map(read.raw, ids[start:stop])))


@pytest.mark.parametrize("read", [BYTES, MERGED], ids=["bytes", "merged"])
@given(text=st.text("ab 🙂é\u0301", min_size=1, max_size=12), data=st.data())
def test_the_tokens_are_the_fewest_that_hold_the_words(read, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    words = text[start : data.draw(st.integers(start + 1, len(text)))]
    ids = read.ids(text)
    places = {n for n in range(len(text)) if text.startswith(words, n)}
    if len(places) == 1:
        assert find_words(read, ids, words) == smallest_window(read, ids, words)


def test_an_emoji_of_four_tokens_is_covered_whole_and_a_border_inside_a_token_takes_the_token():
    assert find_words(BYTES, BYTES.ids("a🙂b"), "🙂") == (1, 5)
    assert find_words(MERGED, MERGED.ids("the the"), " t") == (1, 2)


def test_a_tokenizer_that_leaves_out_spaces_finds_words_with_them():
    read = tokens(word_piece())
    ids = read.ids("the cat sat")
    start, stop = find_words(read, ids, "cat sat")
    assert b"".join(map(read.raw, ids[start:stop])).replace(b" ", b"") == b"catsat"
    spelled = tokens(metaspace())
    with pytest.raises(OptionError, match="is not in the continuation"):
        find_words(spelled, spelled.ids("the cat sat"), "cat  sat")


def test_words_of_a_given_continuation_are_the_span_that_covers_them(lm):
    ids = lm.tokens.ids(TEXT)
    start = TEXT.encode().index("🙂 city".encode())
    plain = noiser.attribute(lm, "One", "occlusion", continuation=ids, span=(start, start + 9))
    named = noiser.attribute(lm, "One", "occlusion", continuation=TEXT, explain="🙂 city")
    np.testing.assert_array_equal(named.scores, plain.scores)
    assert named.target == plain.target
    assert named.target.quantity == "log_prob"
    assert named.card() == plain.card()


def test_words_of_a_generated_continuation(lm, monkeypatch):
    monkeypatch.setattr(lm, "generate", lambda prompt, count: lm.tokens.ids(TEXT)[:count])
    named = noiser.attribute(lm, "One", "occlusion", generate=6, explain="Paris")
    assert named.target.token_ids == lm.tokens.ids("Paris")
    with pytest.raises(OptionError, match="is not in the continuation, which is ' Par'"):
        noiser.attribute(lm, "One", "occlusion", generate=4, explain="Paris")
    compared = noiser.compare(lm, "One", ["occlusion", "lime"], generate=6, explain="Paris")
    assert {each.target.token_ids for each in compared.attributions} == {lm.tokens.ids("Paris")}


def test_every_front_door_takes_the_words(lm):
    (many,) = noiser.attribute_many(lm, ["One"], "occlusion", continuation=TEXT, explain="Paris")
    assert isinstance(many, noiser.Attribution)
    assert many.target.token_ids == lm.tokens.ids("Paris")
    assert noiser.estimate(lm, "One", "occlusion", continuation=TEXT, explain="Paris").exact
    assert noiser.fit_budget(lm, "One", "lime", 500, continuation=TEXT, explain="Paris").options["samples"] > 1


REFUSED = [
    ({"explain": "Paris"}, "explain names part of a continuation: give continuation or generate"),
    ({"target": 17, "explain": "Paris"}, "explain names part of a continuation"),
    ({"continuation": TEXT, "explain": "Paris", "span": (0, 1)}, "give span or explain, not both"),
    ({"continuation": TEXT, "explain": "  "}, "explain wants words"),
    ({"continuation": TEXT, "explain": 7}, "explain wants words"),
    ({"continuation": TEXT, "explain": "paris"}, r"'paris' is not in the continuation, which is ' Paris, the 🙂 city, in the north'"),
    ({"continuation": TEXT, "explain": "the"}, r"'the' is in 2 places of the continuation, its tokens 8:11, 26:29: give more of the words"),
    ({"continuation": TEXT, "explain": "One"}, "is not in the continuation"),
    ({"continuation": TEXT, "explain": "\ud83d"}, "is not in the continuation"),
    ({"continuation": TEXT, "explain": "Paris", "quantity": "log_odds"}, "the quantity of a span is"),
]


@pytest.mark.parametrize(("question", "message"), REFUSED, ids=[str(question) for question, _ in REFUSED])
def test_what_cannot_be_is_refused(lm, question, message):
    with pytest.raises(OptionError, match=message):
        noiser.attribute(lm, "One", "occlusion", **question)


def test_a_long_continuation_is_cut_in_the_error(lm):
    with pytest.raises(OptionError, match="\u2026") as error:
        find_words(BYTES, BYTES.ids("a" * 5000), "b")
    assert len(str(error.value)) < 700
