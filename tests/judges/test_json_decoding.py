"""Replies that follow a schema whatever the model: each is JSON of the schema's shape, and the words in it are the model's choice.

The effect without our code: a random model writes no JSON. Mutants caught, each run: the quotation mark allowed at a string's
beginning; no end to a string; tokens with a quotation mark inside of words.
"""

import json

import pytest
import torch

import noiser
from noiser.errors import RunError
from noiser.judges.backend import Call, Completion
from noiser.judges.json_decoding import MAX_STRING_TOKENS, ConstrainedDecoder, json_template, string_tokens
from noiser.judges.local import LocalBackend
from noiser.judges.prompting import reply_schema
from noiser.judges.protocol import JudgePrompt
from tests.conftest import TINY, byte_tokenizer, tiny

ONE, FIVE = (reply_schema(JudgePrompt(("a",), form)) for form in ("top1", "top5"))


def call(text, schema):
    return Call(({"role": "user", "content": text},), schema, 8)


def heard_from(backend, calls):
    found = {}
    backend.complete(calls, found.__setitem__)
    return [found[place] for place in range(len(calls))]


def test_a_random_model_writes_no_json_of_its_own():
    backend = LocalBackend("tiny", lm=noiser.load(tiny("llama", vocab_size=259), byte_tokenizer()))
    (free,) = heard_from(backend, [call("a", None)])
    with pytest.raises(ValueError):
        json.loads(free.text)


@pytest.mark.parametrize("family", sorted(TINY))
@pytest.mark.parametrize("schema", [ONE, FIVE], ids=["one", "five"])
def test_every_reply_is_json_of_the_schemas_shape(family, schema):
    lm = noiser.load(
        tiny(family, vocab_size=259, max_position_embeddings=512, **({"n_positions": 512} if family == "gpt2" else {})), byte_tokenizer()
    )
    backend = LocalBackend("tiny", lm=lm, batch=3)
    assert backend.structured
    for said in heard_from(backend, [call(text, schema) for text in ("a", "tower", "the city of", "x y z")]):
        assert isinstance(said, Completion)
        assert said.finish == "stop"
        found = json.loads(said.text)
        assert list(found) == list(schema["properties"])
        assert all(word and len(word.encode("utf-8", "replace")) <= 3 * MAX_STRING_TOKENS for word in found.values())


def test_the_words_are_what_the_model_likes_best(smol):
    """Step by step without batches: the argmax over the tokens that may stand in a string, from plain forward passes."""
    backend = LocalBackend("smol", lm=smol)
    asked = call("Say the capital of France.", ONE)
    (said,) = heard_from(backend, [asked])
    ids = list(smol.prompt(list(asked.messages)).input_ids) + list(smol.tokens.ids('{"word": "'))
    quote, word = smol.tokens.ids('"')[0], []
    while len(word) < MAX_STRING_TOKENS:
        logits = smol.model(input_ids=torch.tensor([ids + word], device=smol.device)).logits[0, -1]
        order = logits.argsort(descending=True).tolist()
        unfit = set('"\\\n\t\r')
        for best in order:
            special = best in smol.tokenizer.all_special_ids
            if (best == quote and word) or not (special or unfit & set(smol.tokenizer.decode([best]))):
                break
        if best == quote:
            break
        word.append(best)
    assert json.loads(said.text) == {"word": smol.tokenizer.decode(word)}


@pytest.mark.slow
def test_rows_that_end_at_different_times_do_not_disturb_each_other(smol):
    calls = [call(text, ONE) for text in ("Name five rivers.", "hi", "Paris is the capital of")]
    together = heard_from(LocalBackend("smol", lm=smol, batch=3), calls)
    alone = heard_from(LocalBackend("smol", lm=smol, batch=1), calls)
    assert [each.text for each in together] == [each.text for each in alone]
    assert len({len(each.text) for each in alone}) > 1, "they end at different times"


def test_a_speller_leaves_what_may_come_and_nothing_else(smol):
    known = string_tokens(smol.tokens, smol.model.config.vocab_size)
    template = json_template(smol.tokens, known, ONE)
    decoder, ids = ConstrainedDecoder(template, 1), torch.tensor([[5]])
    allowed = []
    while not decoder.complete[0]:
        scores = decoder(ids, torch.randn(1, smol.model.config.vocab_size, generator=torch.Generator().manual_seed(ids.shape[1])))
        allowed.append(int(scores.isfinite().sum()))
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], 1)
    head = len(template.fixed_parts[0])
    assert allowed[:head] == [1] * head
    assert allowed[head] == int(known.inside.sum()), "a string is not empty"
    assert allowed[head + 1] == allowed[head] + 1
    assert len(allowed) <= template.max_length
    assert allowed[-len(template.fixed_parts[-1]) :] == [1] * len(template.fixed_parts[-1])
    assert not any(known.inside[token] for token in smol.tokenizer.all_special_ids)


def test_a_tokenizer_without_a_quotation_mark_is_asked_in_plain_text(monkeypatch):
    lm = noiser.load(tiny("llama", vocab_size=259), byte_tokenizer())
    monkeypatch.setattr(type(lm.tokens), "raw", lambda self, token: b"x")
    backend = LocalBackend("tiny", lm=lm)
    assert backend.structured is False
    with pytest.raises(RunError, match="cannot write word as JSON"):
        backend.complete([call("a", ONE)], lambda *_: None)
