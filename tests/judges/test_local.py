"""The judge that is loaded here says what greedy decoding says, whatever batch a question comes in, and leaves the model as it was.

Mutants caught: padding on the right, or not masked; rows of a batch heard in another order; the checkpoint's own generation
settings left in force; its end tokens not looked at, or not the tokenizer's; `quiet` left out, or the settings not put back;
the reply not cut at its end token, or at the first newline whatever stood before it; `finish` always `stop`; the batch that
fitted not remembered; a row that does not fit alone raised instead of heard; the room for the reply not counted; all heard at
the end; NaN not looked for, or all rows of a batch blamed for one; a dropped system message not noticed; the model loaded at
construction.
"""

import functools
import types
from copy import deepcopy

import pytest
import torch

import noiser
from noiser.errors import JudgeError, ModelError, RunError
from noiser.judges import local
from noiser.judges.backend import Backend, Call, Completion
from noiser.judges.local import LocalBackend
from tests.conftest import byte_tokenizer, tiny

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
DROPS = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endfor %}>"
WORDS = ("Paris", "France", "Rome", "the", "of", "Seine", "capital", "music", "wrote", "Islam", "river", "1980", "language", "Danish")


def call(user, tokens=8, system=""):
    said = [{"role": "system", "content": system}] if system else []
    return Call((*said, {"role": "user", "content": user}), None, tokens)


def heard_from(backend, calls):
    found = {}

    def hear(place, outcome):
        assert place not in found, "heard twice"
        found[place] = outcome

    backend.complete(calls, hear)
    assert sorted(found) == list(range(len(calls)))
    return [found[place] for place in range(len(calls))]


def byte_model(template=None, **changes):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return noiser.load(tiny("llama", **changes), tokenizer)


def scripted(lm, script, broken=""):
    """The model says what the script has for a prompt's last letter, as real logits; letters of `broken` get NaN."""
    original = lm.model.forward
    state = {}

    @functools.wraps(original)
    def forward(*args, **options):
        output = original(*args, **options)
        ids = options["input_ids"]
        if options["past_key_values"].get_seq_length() == ids.shape[1]:
            state["letters"], state["step"] = [lm.tokenizer.decode([row[-1]]) for row in ids.tolist()], 0
        for row, letter in enumerate(state["letters"]):
            said = [*lm.tokenizer.encode(script.get(letter, ""), add_special_tokens=False), 2]
            output.logits[row, -1] = -9.0
            output.logits[row, -1, said[min(state["step"], len(said) - 1)]] = 9.0
            if letter in broken and state["step"] == 1:
                output.logits[row, -1, 5] = torch.nan
        state["step"] += 1
        return output

    lm.model.forward = forward
    return lm


def spied(monkeypatch, lm, before=lambda ids: None):
    """The rows that go through generate, decoded, a list for each batch."""
    batches, original = [], type(lm.model).generate

    def generate(self, **options):
        before(options["input_ids"])
        pairs = zip(options["input_ids"].tolist(), options["attention_mask"].tolist(), strict=True)
        batches.append([lm.tokenizer.decode([i for i, real in zip(ids, mask, strict=True) if real]) for ids, mask in pairs])
        return original(self, **options)

    monkeypatch.setattr(lm.model, "generate", types.MethodType(generate, lm.model))
    return batches


@pytest.mark.slow
def test_the_default_model_says_the_same_in_every_batch_and_what_greedy_decoding_says(smol):
    calls = [call("Tokens: " + ", ".join(WORDS[n % 5 : n % 5 + 1 + (7 * n) % 11]), 3, "One word.") for n in range(20)]
    found = {batch: heard_from(LocalBackend("", batch=batch, lm=smol), calls) for batch in (1, 2, 7, 32)}
    assert all(replies == found[1] for replies in found.values())
    print(f"replies: {len({said.text for said in found[1]})} different of {len(calls)}")
    assert len({said.text for said in found[1]}) > 3
    for each, said in list(zip(calls, found[1], strict=True))[:2]:
        ids = smol.generate(smol.prompt([dict(message) for message in each.messages]), each.max_tokens)
        assert said.text == smol.tokenizer.decode(ids, skip_special_tokens=True)
        assert said.finish == ("stop" if ids[-1] == smol.tokenizer.eos_token_id else "length")
        assert said.model == f"{smol.name}@{smol.revision}"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "opt", "bloom"])
def test_every_family_says_the_same_in_every_batch(family):
    lm = noiser.load(tiny(family), byte_tokenizer())
    calls = [call("abcdefghij"[: 1 + (3 * n) % 10], 5 + n % 2) for n in range(9)]
    one, many = (heard_from(LocalBackend("", batch=batch, lm=lm), calls) for batch in (1, 7))
    assert one == many
    ids = lm.generate(lm.prompt("abcd"), 6)
    assert one[1].text == lm.tokenizer.decode(ids, skip_special_tokens=True).lstrip().partition("\n")[0]


def test_the_models_own_generation_settings_count_for_nothing_but_the_end(monkeypatch):
    lm = byte_model(CHAT)
    plain = heard_from(LocalBackend("", lm=lm), [call("hello", 12)])
    first = lm.generate(lm.prompt([{"role": "user", "content": "hello"}]), 12)
    settings = lm.model.generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size, settings.suppress_tokens = 9.0, 1, [first[0]]
    settings.do_sample, settings.temperature, settings.min_new_tokens, settings.max_length = True, 5.0, 3, 9
    assert heard_from(LocalBackend("", lm=lm), [call("hello", 12)]) == plain


def test_the_end_is_the_tokenizers_and_the_models():
    lm = scripted(byte_model(CHAT), {">": "Paris. Rome"})
    for named, wanted in ((None, "Paris. Rome"), ([2, *lm.tokenizer.encode(".", add_special_tokens=False)], "Paris")):
        lm.model.generation_config.eos_token_id = named
        (said,) = heard_from(LocalBackend("", lm=lm), [call("hello", 12)])
        assert (said.text, said.finish) == (wanted, "stop")


def test_a_model_in_training_mode_says_what_it_says():
    lm = noiser.load(tiny("gpt2", resid_pdrop=0.5, embd_pdrop=0.5), byte_tokenizer())
    said = heard_from(LocalBackend("", lm=lm), [call("abc", 20), call("b", 20)])
    lm.model.train()
    assert heard_from(LocalBackend("", lm=lm), [call("abc", 20), call("b", 20)]) == said


def state_of(lm):
    tokenizer, model = lm.tokenizer, lm.model
    backend = tokenizer.backend_tokenizer
    return (
        [module.training for module in model.modules()], id(model.generation_config), deepcopy(model.generation_config.to_dict()),
        deepcopy(model.config.to_dict()), tokenizer.padding_side, tokenizer.pad_token, tokenizer.special_tokens_map, backend.padding,
        backend.truncation, [len(module._forward_hooks) for module in model.modules()], sorted(vars(model)), torch.is_grad_enabled(),
        [(weight.requires_grad, weight.grad) for weight in model.parameters()],
    )  # fmt: skip


def test_the_model_is_left_as_found_after_success_and_after_an_exception(monkeypatch):
    lm = byte_model()
    lm.model.train()
    lm.tokenizer.pad_token, lm.tokenizer.padding_side = None, "right"
    lm.model.generation_config.repetition_penalty = 1.5
    before, draws = state_of(lm), torch.get_rng_state()
    heard_from(LocalBackend("", lm=lm), [call("abc"), call("a")])
    assert state_of(lm) == before
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(type(lm.model.lm_head), "forward", lambda *_: 1 / 0)
        heard_from(LocalBackend("", lm=lm), [call("abc")])
    assert state_of(lm) == before
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_reply_is_cut_where_it_ends():
    script = {"a": "Paris", "b": "\n \nRome is\nmore", "c": "no end to it", "d": ""}
    calls = [call(letter, 9) for letter in script]
    plain = heard_from(LocalBackend("", lm=scripted(byte_model(), script)), calls)
    assert [(said.text, said.finish) for said in plain] == [("Paris", "stop"), ("Rome i", "length"), ("no end to", "length"), ("", "stop")]
    (line,) = heard_from(LocalBackend("", lm=scripted(byte_model(), script)), [call("b", 30)])
    assert (line.text, line.finish) == ("Rome is", "stop")
    (chat,) = heard_from(LocalBackend("", lm=scripted(byte_model(CHAT), {">": script["b"]})), [call("b", 30)])
    assert (chat.text, chat.finish) == (script["b"], "stop")


@pytest.mark.parametrize(
    ("template", "sent"),
    [
        (CHAT, "<system>Be brief.<user>Hi >"),
        (NO_SYSTEM, "<user>Be brief.\n\nHi >"),
        (DROPS, "<user>Be brief.\n\nHi >"),
        (None, "Be brief.\n\nHi"),
    ],
)
def test_what_the_system_says_is_always_there(monkeypatch, template, sent):
    lm = byte_model(template)
    batches = spied(monkeypatch, lm)
    heard_from(LocalBackend("", lm=lm), [call("Hi ", 1, "Be brief.")])
    assert batches == [[sent]]


def test_each_batch_is_heard_as_soon_as_it_is_done_and_holds_what_is_alike(monkeypatch):
    lm = byte_model(CHAT)
    events = []
    batches = spied(monkeypatch, lm, lambda ids: events.append(ids.shape))
    lengths = [3, 12, 4, 11, 13]
    LocalBackend("", batch=2, lm=lm).complete([call("x" * length, 2) for length in lengths], lambda place, _: events.append(place))
    assert events == [(2, 20), 4, 1, (2, 18), 3, 2, (1, 10), 0]
    assert [len(batch) for batch in batches] == [2, 2, 1]


def full_beyond(rows):
    def check(ids):
        if len(ids) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return check


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(monkeypatch):
    lm = byte_model(CHAT)
    calls = [call("ab" * (1 + n % 5), 3) for n in range(23)]
    wanted = heard_from(LocalBackend("", lm=lm), calls)
    batches = spied(monkeypatch, lm, full_beyond(3))
    backend = LocalBackend("", batch=16, lm=lm)
    assert heard_from(backend, calls) == wanted
    assert backend.batch == 2
    assert [len(batch) for batch in batches] == [*[2] * 11, 1]
    assert backend.counts == {"calls": 23}


def test_a_question_that_does_not_fit_alone_is_an_error_of_its_own(monkeypatch):
    lm = byte_model(CHAT)
    spied(monkeypatch, lm, lambda ids: full_beyond(0)(ids) if ids.shape[1] > 20 else None)
    backend = LocalBackend("", batch=4, lm=lm)
    long, *rest = heard_from(backend, [call("x" * 30, 2), call("a", 2), call("b", 2)])
    assert isinstance(long, JudgeError)
    assert "memory" in str(long)
    assert all(isinstance(each, Completion) for each in rest)
    assert backend.counts == {"calls": 3, "oom": 1}


def test_a_question_without_room_for_its_reply_is_an_error_of_its_own():
    lm = byte_model()
    backend = LocalBackend("", lm=lm)
    found = heard_from(backend, [call("x" * 60, 4), call("x" * 60, 5), call("x" * 70, 1), call("\ud800"), call("ok")])
    assert [type(each) for each in found] == [Completion, JudgeError, JudgeError, JudgeError, Completion]
    assert "60 tokens" in str(found[1])
    assert backend.counts == {"calls": 5, "prompt": 3}


def test_nan_is_the_error_of_its_row_alone():
    lm = scripted(byte_model(), {"a": "Paris", "b": "Rome"}, broken="b")
    backend = LocalBackend("", lm=lm)
    good, bad = heard_from(backend, [call("a"), call("b")])
    assert good.text == "Paris"
    assert isinstance(bad, JudgeError)
    assert "NaN" in str(bad)
    assert backend.counts == {"calls": 2, "nonfinite": 1}


def test_the_model_is_loaded_at_the_first_call_and_known_before(monkeypatch, tmp_path, smol):
    tiny("llama").save_pretrained(tmp_path / "judge")
    byte_tokenizer().save_pretrained(tmp_path / "judge")
    loads = []
    monkeypatch.setattr(local, "load", lambda *args, **options: loads.append(args) or noiser.load(*args, **options))
    backend = LocalBackend(str(tmp_path / "judge"), device="cpu")
    assert loads == []
    (said,) = heard_from(backend, [call("abc", 2)])
    heard_from(backend, [call("abc", 2)])
    assert len(loads) == 1
    assert said.model == backend.model
    assert isinstance(backend, Backend)  # which reads `structured`, so not before
    assert backend.name == "local:judge"
    assert backend.parameters(call("abc", 2)) == {"decoding": "greedy", "max_tokens": 2}
    assert str(tmp_path) not in f"{backend.name}{backend.identity}{backend.model}"
    named, given = LocalBackend("smollm2-135m", device="cpu"), LocalBackend("", lm=smol)
    assert (named.name, named.identity, named.model) == (given.name, given.identity, given.model)


def test_a_model_that_cannot_be_had_is_said(monkeypatch, tmp_path):
    with pytest.raises(ModelError, match="there is no folder"):
        LocalBackend(str(tmp_path / "nowhere"))
    tiny("llama").save_pretrained(tmp_path / "judge")
    with pytest.raises(RunError, match="local:judge cannot be asked"):
        LocalBackend(str(tmp_path / "judge")).check()
    lm = byte_model()
    lm.model = types.SimpleNamespace(dtype=torch.float32)
    with pytest.raises(RunError, match="writes no text"):
        LocalBackend("", lm=lm).check()
