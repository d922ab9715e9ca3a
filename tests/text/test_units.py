"""Every token is in one unit or in none, sums are conserved, and units are what a reader would call words, sentences, lines.

Mutants caught (units.py, spans.py, types.py, lm/surfaces.py, lm/tokens.py, one line each): `_touched` with the wrong side of
a bound; `min` for `max` in `_most_shared`; whitespace to what precedes it; units across special tokens, or with them;
`_numbered` without its gaps closed; the rest of `sums` dropped; `spread` without the division; `_grown` left out (a word that
a longer token swallows vanishes); `EDGES` greedy in its core, or blind to the mark after a sign; scripts without spaces not
divided; the NBSP that makes sentencex panic; blank lines kept; `concatenate` strict, or without `unfinished`; `align` that does
not skip spaces, or takes any text; `extended` without `_unfinished` or its limit; `cropped` with `<=`, or with whole characters.
"""

from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noiser.errors import OptionError, PromptError
from noiser.lm.token_text import align
from noiser.text.prompt import Prompt, Turn
from noiser.text.units import UNITS, paragraphs, units
from tests.tokenizers_built_here import Characters, byte_level, metaspace, tokens, word_piece

TOKENIZERS = {
    "byte-level": tokens(byte_level()),
    "byte-level, offsets with spaces": tokens(byte_level(trim=False)),
    "metaspace": tokens(metaspace()),
    "word pieces": tokens(word_piece()),
    "slow": tokens(Characters()),
}
PIECES = [
    "the",
    "theatre",
    " ",
    "  ",
    "\n",
    "\t",
    ".",
    "Dr. ",
    "!? ",
    "(",
    "<s>",
    "\u6211\u559c\u6b22",
    "\u0e2a\u0e27\u0e31\u0e2a",
    "\u30ab\u30bf",
]
PIECES += [
    "\U0001f468\u200d\U0001f469",
    "\u00e9",
    "e\u0301",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u0928\u092e\u0938\u094d\u0924\u0947\u0964",
]
PIECES += ["\u00a0", "\u2028", "\x00", "\ufffd", "A\u00a0."]
TEXTS = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), min_size=1, max_size=12).map("".join)
KINDS = [kind for kind in UNITS if kind not in ("turn", "span")]
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def end_to_end(*pieces, special=()):
    """A prompt whose tokens read as given, and whose offsets are left to be found."""
    return Prompt("", (0,) * len(pieces), pieces, tuple(piece in special for piece in pieces))


def prompt_of(name, text):
    try:
        return TOKENIZERS[name].prompt(text)
    except PromptError:
        return replace(end_to_end("a"), text="a", offsets=((0, 1),))  # word pieces have no token for blank text


@each_tokenizer
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, seed=st.integers(0, 99))
def test_sums_are_conserved_and_spreading_gives_them_back(name, text, seed):
    prompt = prompt_of(name, text)
    draw = np.random.default_rng(seed)
    scores = draw.normal(size=(2, len(prompt)))
    for kind in KINDS:
        found = units(prompt, kind)
        sums, rest = found.sums(scores)
        assert sums.shape == (2, len(found.texts))
        np.testing.assert_allclose(sums.sum(1) + rest, scores.sum(1), atol=1e-12)
        np.testing.assert_allclose(rest, scores[:, [unit is None for unit in found.of]].sum(1), atol=1e-12)
        values = draw.normal(size=len(found.texts))
        back, nothing = found.sums(found.spread(values)[None])
        np.testing.assert_allclose(back[0], values, atol=1e-12)
        assert nothing == 0


@each_tokenizer
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_units_are_groups_of_neighbours_in_order_and_leave_nothing_readable_out(name, text):
    prompt = prompt_of(name, text)
    for kind in KINDS:
        found = units(prompt, kind)
        assert len(found.of) == len(prompt)
        assert [found.members.index(members) for members in found.members] == list(range(len(found.texts)))
        assert all(members == tuple(range(members[0], members[-1] + 1)) for members in found.members), "neighbours"
        in_units = [unit for unit in found.of if unit is not None]
        assert in_units == sorted(in_units)
        for token, unit in enumerate(found.of):
            assert kind == "token" or not prompt.special[token] or unit is None
            assert unit is not None or prompt.special[token] or not prompt.text[slice(*prompt.offsets[token])].split()


@pytest.mark.parametrize("name", ["byte-level", "byte-level, offsets with spaces", "metaspace"])
@settings(max_examples=60, deadline=None)
@given(text=TEXTS.filter(lambda text: "<" not in text))
def test_units_together_read_like_the_text(name, text):
    for kind in ("word", "sentence", "line"):
        assert "".join("".join(units(prompt_of(name, text), kind).texts).split()) == "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, cut=st.integers(0, 20))
def test_a_prompt_cropped_and_extended_is_what_it_was(text, cut):
    own = TOKENIZERS["byte-level"]
    whole = own.prompt(own.prompt(text).input_ids)
    cropped = whole.cropped(min(cut, len(whole)))
    assert len(cropped) == len(cropped.offsets) == min(cut, len(whole))
    if 0 < cut < len(whole):
        assert cropped.text == own.prompt(whole.input_ids[:cut]).text
        one_by_one = cropped
        for i in whole.input_ids[cut:]:
            one_by_one = own.extended(one_by_one, [i])
        assert own.extended(cropped, whole.input_ids[cut:]) == one_by_one == whole


@each_tokenizer
def test_offsets_continue_behind_the_text(name):
    own = TOKENIZERS[name]
    prompt = own.prompt("the cat")
    longer = own.extended(prompt, [2, prompt.input_ids[1]])
    assert longer.text == prompt.text + "</s>" + prompt.tokens[1]
    assert longer.special[-2:] == (True, False)
    assert [longer.text[slice(*span)] for span in longer.offsets[-2:]] == ["</s>", prompt.tokens[1]]
    assert longer.offsets[:-2] == prompt.offsets


def test_too_many_or_unknown_ids_are_refused():
    own = tokens(byte_level(), limit=4)
    prompt = own.prompt("the")
    assert len(own.extended(prompt, [5, 6, 7])) == 4
    with pytest.raises(PromptError, match=r"has 5 tokens.*\b4\b"):
        own.extended(prompt, [5, 6, 7, 8])
    with pytest.raises(PromptError, match="got 300"):
        own.extended(prompt, [300])


def test_turns_are_cropped_and_keep_their_place():
    prompt = Prompt("abc", (5, 6, 7), ("a", "b", "c"), (False,) * 3, ((0, 1), (1, 2), (2, 3)), (Turn("user", (0, 1)), Turn("user", (2,))))
    assert prompt.cropped(1).turns == (Turn("user", (0,)), Turn("user", ()))
    assert units(prompt.cropped(2), "turn").texts == ("ab",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"Dr. Smith (1889)", he said!?', ['"', "Dr", ".", "Smith", "(", "1889", ')",', "he", "said", "!?"]),
        ("don't well-known x=3 $5 __init__", ["don't", "well-known", "x=3", "$", "5", "__", "init", "__"]),
        ("\u6211\u559c\u6b22Python\u7f16\u7a0b\u3002", ["\u6211", "\u559c", "\u6b22", "Python", "\u7f16", "\u7a0b", "\u3002"]),
        ("\u30ab\u30bf\u30ab\u30ca\u3001\u3042", ["\u30ab\u30bf\u30ab\u30ca", "\u3001", "\u3042"]),
        ("\u0e2a\u0e27\u0e31", ["\u0e2a", "\u0e27\u0e31"]),
        ("\u0645\u0631\u062d\u0628\u0627\u060c \u0628\u0643", ["\u0645\u0631\u062d\u0628\u0627", "\u060c", "\u0628\u0643"]),
        ("\u0928\u092e\u0938\u094d\u0924\u0947\u0964", ["\u0928\u092e\u0938\u094d\u0924\u0947", "\u0964"]),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467! #\ufe0f\u20e3", ["\U0001f468\u200d\U0001f469\u200d\U0001f467", "!", "#\ufe0f\u20e3"]),
        ("a\u00a0b\tc\nd", ["a", "b", "c", "d"]),
        ("...", ["..."]),
        (" \n", []),
    ],
)
def test_words(smol, text, expected):
    assert list(units(smol.prompt(text), "word").texts) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith left.  He paid $3.50!\nYes", ["Dr. Smith left.", "He paid $3.50!", "Yes"]),
        ("\u4f60\u597d\u3002\u4f60\u662f\u8c01\uff1f", ["\u4f60\u597d\u3002", "\u4f60\u662f\u8c01\uff1f"]),
        ("\u0928\u092e\u0964 \u0906\u092a?", ["\u0928\u092e\u0964", "\u0906\u092a?"]),
        ("Ask J\u00a0. R.\u3000Ok", ["Ask J\u00a0. R.\u3000Ok"]),
    ],
)
def test_sentences(smol, text, expected):
    assert list(units(smol.prompt(text), "sentence").texts) == expected


def test_lines_keep_their_indentation_and_blank_ones_are_none():
    prompt = end_to_end("if", " x", ":", "\n", "    ", "y", "\r\n", " \n", "z", "\n")
    found = units(prompt, "line")
    assert found.texts == ("if x:", "    y", "z")
    assert found.of == (0, 0, 0, 1, 1, 1, 2, 2, 2, 2)


def test_whitespace_goes_to_what_follows_but_not_past_a_special_token():
    prompt = end_to_end("<s>", " ", "a", "\n", "<s>", "\n", "<s>", "b", " ", " ", "c", " ", special=("<s>",))
    assert units(prompt, "word").of == (None, 0, 0, 0, None, None, None, 1, 2, 2, 2, 2)


def test_no_unit_reaches_across_a_special_token():
    assert units(end_to_end("a", "<s>", "b", special=("<s>",)), "word").texts == ("a", "b")
    assert units(end_to_end("a", "<s>", "b"), "word").texts == ("a<s>b",)


@pytest.mark.parametrize(
    ("pieces", "of", "texts"),
    [
        (("ab", "c)", " de"), (0, 0, 1), ("abc)", "de")),
        (("of the", " cat"), (0, 1), ("of the", "cat")),
        (("the cat sat", ".\n", "On"), (0, 1, 2), ("the cat sat", ".", "On")),
        (("a", "b ccc", "d"), (0, 1, 1), ("ab", "cccd")),
    ],
)
def test_a_token_in_several_words_goes_to_the_one_it_shares_most_with(pieces, of, texts):
    found = units(end_to_end(*pieces), "word")
    assert found.of == of
    assert found.texts == texts


def test_a_special_token_is_in_no_turn_even_if_the_turn_says_so():
    prompt = replace(end_to_end("<s>", "hi", special=("<s>",)), turns=(Turn("user", (0, 1)),))
    assert units(prompt, "turn").of == (None, 0)


def test_fragments_of_a_character_are_one_word(smol):
    prompt = smol.prompt("hi \U0001f468\u200d\U0001f469 ok")
    found = units(prompt, "word")
    assert [len(members) for members in found.members][0::2] == [1, 1]
    assert len(found.members[1]) > 4


@pytest.mark.parametrize(
    ("lose", "text", "kept"),
    [("", "a b", "a b"), (" ", "a  b ", "a  b "), ("b", "ab", "<s>a"), ("a", "ab", "<s>b"), ("b", "a b", "<s>a ")],
)
def test_a_tokenizer_without_offsets_keeps_the_text_where_only_spaces_differ(lose, text, kept):
    prompt = tokens(Characters(lose=lose)).prompt(text)
    assert prompt.text == kept
    for token, span, special in zip(prompt.tokens, prompt.offsets, prompt.special, strict=True):
        assert special or kept[slice(*span)] == token


def test_a_space_of_the_tokenizers_own_has_no_place_in_the_text():
    assert align([b" a", b" ", b"b"], "ab") == ((0, 1), (1, 1), (1, 2))


def test_ids_and_text_give_the_same_words(smol):
    for text in ("Hi  there,\n\tyou", "\u6211\u559c \U0001f468!", " x"):
        prompt = smol.prompt(text)
        by_ids = smol.prompt(list(prompt.input_ids))
        assert by_ids.text == text
        assert units(by_ids, "word") == units(prompt, "word")


def test_an_unfinished_character_is_finished_by_the_next_token():
    own = TOKENIZERS["byte-level"]
    ids = own.prompt("a \u00e9").input_ids
    begun = own.prompt(ids[:-1])
    assert begun.text == "a \ufffd"
    assert own.extended(begun, ids[-1:]).text == "a \u00e9"


def test_unknown_kinds_and_turns_of_no_chat_are_refused():
    with pytest.raises(OptionError, match="token, word, treebank, sentence, line, paragraph, turn, span; got 'page'"):
        units(end_to_end("a"), "page")
    with pytest.raises(OptionError, match="messages="):
        units(end_to_end("a"), "turn")


def test_words_of_a_long_prompt_are_quick():
    prompt = end_to_end(*[" word", " of the", "."] * 2000)
    start = perf_counter()
    assert len(units(prompt, "word").texts) == 6000
    assert perf_counter() - start < 3


def test_paragraphs_end_at_blank_lines_and_not_at_line_breaks():
    """Mutants: a line break taken for a blank line; a blank line with spaces in it overlooked; a separator of paragraphs overlooked."""
    text = "\n\none\ntwo \n \t\n\n three\r\n\r\nfour\u2029five\n"
    assert [text[start:stop] for start, stop in paragraphs(text)] == ["one\ntwo", "three", "four", "five"]
