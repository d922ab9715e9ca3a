"""Every string and every list of ids is explained token for token or refused with a reason; ids are never tokenised anew.

Mutants caught (lm/tokens.py, one line each): `truncation=True`; `>=` for `>` at the limit; the limit not checked; ids given
directly tokenised again, or special tokens added to them; `raw.decode(errors="replace")` in `_read_bytes`; the branch of
`BYTE_PIECE` or of the added tokens left out; `replace(WORD_START, "")`; `check_unicode` not called, or a position off by
one; the refusal of an empty target left out, or the advice about its leading space given where it does not help; the upper
bound of `_check_ids` off by one, or the check after the decoding.
"""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import noiser
from noiser.errors import PromptError
from tests.conftest import byte_tokenizer, tiny

QUICK = {"samples": 2}
ODD = {
    "emoji of three joined by ZWJ": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "combining marks": "Z\u0351\u036bA\u0334L\u0335G\u0336O",
    "right-to-left": "\u05e9\u05dc\u05d5\u05dd \u202e\u0645\u0631\u062d\u0628\u0627\u202c",
    "zero-width": "a\u200bb\ufeffc\u2060",
    "NUL": "a\x00b\x00",
    "terminal and line controls": "\x1b[31mred\r\n\t\x7f\u2028",
    "special tokens spelled out": "<s>hi</s><pad>",
    "chat template spelled out": "<|im_start|>user\nhi<|im_end|>",
    "beyond the basic plane": "\U0010ffff \U000e0041",
    "one space": " ",
}


def bos_tokenizer():
    """Bytes, with `<s>` in front of every text."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def merging_tokenizer():
    """Bytes, and `ab` as one token, so that the ids of `a` and `b` alone decode to what would be tokenised otherwise."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: rank for rank, piece in enumerate([*alphabet, "ab"])}, merges=[("a", "b")]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def spacing_tokenizer():
    """Bytes, and ` hi` as one token, while `hi` is two."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "h"), ("\u0120h", "i")]
    vocabulary = {piece: rank for rank, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def piece_tokenizer():
    """SentencePiece's way: a word begins with U+2581, and a character that is not in the vocabulary becomes its bytes."""
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "h", "i", "\u2581h", "\u2581hi"]
    vocabulary = {piece: rank for rank, piece in enumerate(pieces)}
    merges = [("\u2581", "h"), ("\u2581h", "i")]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


@pytest.fixture(scope="module")
def lm(tokenizer):
    return noiser.LanguageModel(tiny("llama"), tokenizer)


def whole(attribution):
    """One score, one id and one readable string for each token, or an assertion."""
    count = len(attribution.prompt.input_ids)
    assert attribution.scores.shape == (1, count)
    assert len(attribution.tokens) == len(attribution.prompt.special) == count
    assert np.isfinite(attribution.scores).all()
    assert not any("\ufffd" in token for token in attribution.tokens)
    return attribution


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_text_is_explained_token_for_token(lm, text):
    attribution = whole(noiser.attribute(lm, text, **QUICK))
    assert list(attribution.prompt.input_ids) == lm.tokenizer(text)["input_ids"]
    assert attribution.prompt.text == text
    assert attribution.to_json()
    assert str(attribution)


def test_the_real_tokenizer_reads_odd_text_too(smol):
    for text in ODD.values():
        prompt = smol.prompt(text)
        assert list(prompt.input_ids) == smol.tokenizer(text)["input_ids"]
        assert len(prompt.tokens) == len(prompt.special) == len(prompt)
        assert not any("\ufffd" in token for token in prompt.tokens)


def test_a_special_token_spelled_out_is_that_token_and_is_explained(smol):
    attribution = whole(noiser.attribute(smol, "<|im_start|>\U0001f468<|im_end|>", **QUICK))
    assert attribution.tokens[0] == "<|im_start|>"
    assert attribution.tokens[-1] == "<|im_end|>"
    assert attribution.prompt.special == (True, *[False] * (len(attribution.tokens) - 2), True)


@pytest.mark.parametrize(
    "text", ["The Eiffel Tower is in  Paris,\n\t(1889)!", "def f(x):\n    return x ** 2  # ~`|\\", " !\"#$%&'()*+,-./:;<=>?@[]^_{}"]
)
def test_tokens_of_ascii_text_joined_give_the_text(smol, lm, text):
    for model in (smol, lm):
        assert "".join(model.prompt(text).tokens) == text


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("a\u00e9", ("a", "<0xC3>", "<0xA9>")),
        ("\U0001f467 b", ("<0xF0>", "<0x9F>", "<0x91>", "<0xA7>", " ", "b")),
        ("\ufffd", ("<0xEF>", "<0xBF>", "<0xBD>")),
        ("<s>\n", ("<s>", "\n")),
    ],
)
def test_a_character_split_over_tokens_is_shown_as_its_bytes(lm, text, tokens):
    assert lm.prompt(text).tokens == tokens


def test_two_bytes_in_one_token_are_shown_together(smol):
    tokens = smol.prompt("\U0001f468").tokens
    raw = "".join(tokens).replace("<0x", " ").replace(">", "")
    assert bytes.fromhex(raw) in ("\U0001f468".encode(), " \U0001f468".encode())
    assert any(token.count("<0x") > 1 for token in tokens)


def test_sentencepiece_spaces_and_bytes_are_read():
    lm = noiser.LanguageModel(tiny("llama"), piece_tokenizer())
    attribution = whole(noiser.attribute(lm, "hi h\u00e9A", **QUICK))
    assert attribution.tokens == (" hi", " h", "<0xC3>", "<0xA9>", "A")


def test_an_added_token_is_shown_as_it_was_written():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["two words", "caf\u00e9"])
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    assert whole(noiser.attribute(lm, "a caf\u00e9two words", **QUICK)).tokens == ("a", " ", "caf\u00e9", "two words")


@pytest.mark.parametrize("source", ["", []])
def test_no_tokens_are_refused(lm, source):
    with pytest.raises(PromptError, match="no tokens"):
        noiser.attribute(lm, source)


@pytest.mark.parametrize("source", ["a", [70]])
def test_one_token_is_explained(lm, source):
    assert whole(noiser.attribute(lm, source)).scores.shape == (1, 1)


def test_an_empty_text_with_a_bos_token_is_one_special_token():
    attribution = whole(noiser.attribute(noiser.LanguageModel(tiny("llama"), bos_tokenizer()), ""))
    assert attribution.prompt.input_ids == (1,)
    assert attribution.tokens == ("<s>",)
    assert attribution.prompt.special == (True,)
    assert attribution.notes["k"] > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_prompt_at_the_context_limit_is_explained_whole(family, tokenizer):
    attribution = whole(noiser.attribute(noiser.LanguageModel(tiny(family), tokenizer), "x" * 64, **QUICK))
    assert len(attribution.tokens) == 64


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("length", [65, 640])
@pytest.mark.parametrize("source", ["x", [70]], ids=["text", "ids"])
def test_a_prompt_over_the_context_limit_is_refused_with_both_numbers(family, length, source, tokenizer):
    lm = noiser.LanguageModel(tiny(family), tokenizer)
    with pytest.raises(PromptError, match=rf"\b{length} tokens.*\b64\b"):
        noiser.attribute(lm, source * length)
    assert lm.token_counter.forward_tokens == 0


def test_a_tokenizer_set_to_truncate_does_not():
    tokenizer = byte_tokenizer()
    tokenizer.model_max_length = 8
    tokenizer("x" * 20, truncation=True)
    assert len(tokenizer.backend_tokenizer.encode("x" * 20)) == 8
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    assert len(noiser.attribute(lm, "x" * 20, **QUICK).tokens) == 20


@pytest.mark.parametrize("position", [0, 2, 5])
@pytest.mark.parametrize("surrogate", ["\ud800", "\udfff"])
def test_a_lone_surrogate_is_refused_with_its_position(lm, position, surrogate):
    text = "abcde"[:position] + surrogate + "abcde"[position:]
    expected = rf"U\+{ord(surrogate):04X} at character {position}$"
    with pytest.raises(PromptError, match=expected):
        noiser.attribute(lm, text)
    with pytest.raises(PromptError, match=expected):
        noiser.attribute(lm, "a", target=text)


@pytest.mark.parametrize("wrap", [list, tuple])
def test_ids_are_taken_as_they_are(wrap):
    tokenizer = merging_tokenizer()
    ids = [*tokenizer("a")["input_ids"], *tokenizer("b")["input_ids"]]
    assert tokenizer(tokenizer.decode(ids))["input_ids"] not in ([], ids), "the example must be one that tokenises otherwise"
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    seen = []
    lm.model.get_input_embeddings().register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten().tolist()))
    attribution = whole(noiser.attribute(lm, wrap(ids)))
    assert attribution.prompt.input_ids == tuple(ids)
    assert attribution.prompt.text == "ab"
    assert attribution.tokens == ("a", "b")
    assert [each for each in seen if len(each) == len(ids)] == [ids], "the others are of the trial of the model"


def test_ids_get_no_bos_token():
    lm = noiser.LanguageModel(tiny("llama"), bos_tokenizer())
    assert lm.prompt("hi").input_ids[0] == 1
    assert lm.prompt([74, 75]).input_ids == (74, 75)


@pytest.mark.parametrize("wrong", [-1, 300, 2**40])
def test_an_id_that_the_embedding_does_not_have_is_refused(lm, wrong):
    with pytest.raises(PromptError, match=rf"0 to 299; got {wrong}$"):
        noiser.attribute(lm, [70, wrong])
    with pytest.raises(PromptError, match=rf"0 to 299; got {wrong}$"):
        noiser.attribute(lm, "a", target=wrong)


def test_a_wrong_id_does_not_harm_the_other_prompts(lm):
    first, wrong, last = noiser.attribute_many(lm, ["a", [-1], "b"], errors="return", **QUICK)
    assert isinstance(wrong.error, PromptError)
    assert first.tokens == ("a",)
    assert last.tokens == ("b",)


def test_a_token_that_the_model_has_no_embedding_for_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<new{number}>" for number in range(60)])
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    assert whole(noiser.attribute(lm, "<new0>", **QUICK)).tokens == ("<new0>",)
    with pytest.raises(PromptError, match="0 to 299; got 318"):
        noiser.attribute(lm, "<new59>", **QUICK)


def test_a_prediction_beyond_the_tokenizer_is_named_by_its_id(lm):
    assert lm.tokens.surface(299) == "<id 299>"


def test_a_target_may_be_text_or_an_id(lm):
    number = lm.tokenizer("q")["input_ids"][0]
    text, by_id = (noiser.attribute(lm, "abc", target=target, **QUICK) for target in ("q", number))
    assert text.target == by_id.target
    assert text.target.token_ids == (number,)
    assert text.target.tokens == ("q",)
    assert text.target.rank > 0
    np.testing.assert_array_equal(text.scores, by_id.scores)


def test_a_target_keeps_its_leading_space_and_gets_no_bos(smol):
    spaced, plain = smol.tokens.ids(" Paris"), smol.tokens.ids("Paris")
    assert [smol.tokens.surface(token) for token in spaced] == [" Paris"]
    assert spaced != plain
    assert list(noiser.LanguageModel(tiny("llama"), bos_tokenizer()).tokens.ids("q")) == byte_tokenizer()("q")["input_ids"]


@pytest.mark.parametrize("target", ["xy", (90, 91)], ids=["text", "ids"])
def test_a_target_of_several_tokens_is_explained_as_a_whole(lm, target):
    attribution = whole(noiser.attribute(lm, "abc", target=target, **QUICK))
    assert attribution.target.token_ids == (90, 91)
    assert attribution.target.tokens == ("x", "y")
    first = noiser.attribute(lm, "abc", target="x", **QUICK).target.prob
    second = noiser.attribute(lm, "abcx", target="y", **QUICK).target.prob
    assert attribution.target.prob == pytest.approx(first * second, rel=1e-5)
    assert attribution.notes["warnings"] == []


@pytest.mark.parametrize("target", ["", ()], ids=["text", "ids"])
def test_a_target_of_no_tokens_is_refused(lm, target):
    with pytest.raises(PromptError, match="there are no tokens in"):
        noiser.attribute(lm, "abc", target=target)


def test_a_target_that_lacks_only_its_leading_space_is_explained_with_a_warning():
    lm = noiser.LanguageModel(tiny("llama"), spacing_tokenizer())
    for target, warned in (("hi", True), (" hi", False), ("hix", False), ([107, 108], False)):
        attribution = whole(noiser.attribute(lm, "abc", target=target, **QUICK))
        advice = [sentence for sentence in attribution.notes["warnings"] if "leading space" in sentence]
        assert len(advice) == warned, target
        meant = noiser.attribute(lm, "abc", target=" hi", **QUICK).target.prob
        assert not advice or f"{attribution.target.prob:.2g} here, ' hi' with its leading space {meant:.2g}" in advice[0]
    assert len(noiser.attribute(lm, "abc", target="hi", **QUICK).target.token_ids) == 2
