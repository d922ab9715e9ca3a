"""Which rows a model answers, against a plain forward pass; and what is said of them.

Mutants caught, each run: rows of a shared pass handed out in reverse; the target compared without stripping; `limit` taken of
rows instead of answers; `word` that stops at the first token; a row that cannot be read dropped; the highest id among equals; a blank
target answered by a blank token.
"""

import json
import math
import re
from collections import Counter

import pytest
import torch

import noiser
from noiser.cli.data import StatsArgs, list_sets, run_stats
from noiser.cli.options import ModelOptions
from noiser.cli.outputs import Output
from noiser.data import Row, read
from noiser.errors import ModelError, OptionError
from noiser.experiments.schema import NO_TARGET, NONFINITE, OOM, OTHER_ANSWER
from noiser.experiments.screening import screen
from tests.conftest import byte_tokenizer, tiny
from tests.toys import BrokenLM, ToyLM

PROMPTS = [(7, 200, 31, 150, 31, 99), (5, 9, 5), (120, 60, 30, 15, 7, 3, 8, 40), (99, 98, 97, 96), (44, 45)]


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


def rows(*targets, prompts=PROMPTS):
    return [Row(str(place), list(prompt), target) for place, (prompt, target) in enumerate(zip(prompts, targets, strict=True))]


def continued(lm, ids, count):
    """The plain way: the whole sequence from ids, again for every token."""
    found, prob = [], 1.0
    for _ in range(count):
        with torch.no_grad():
            probs = lm.model(torch.tensor([[*ids, *found]])).logits[0, -1].float().softmax(-1)
        found.append(int(probs.argmax()))
        prob *= float(probs.max())
    return tuple(found), prob


def test_token_is_the_argmax_of_a_plain_forward(lm):
    plain = [continued(lm, ids, 1) for ids in PROMPTS]
    words = [lm.tokens.surface(ids[0]).strip() for ids, _ in plain]
    assert len(set(words)) > 2
    found = list(screen(lm, rows(*words[:3], f" {words[3]}", "no"), "token"))
    assert [(each.target_ids, each.answer.strip()) for each in found[:4]] == [
        (ids, word) for (ids, _), word in zip(plain[:4], words, strict=False)
    ]
    assert [each.answered for each in found] == [True] * 4 + [False]
    assert (found[4].answer.strip(), found[4].target_ids, found[4].reason) == (words[4], None, OTHER_ANSWER)
    assert [each.prob for each in found] == pytest.approx([prob for _, prob in plain], abs=1e-5)


@pytest.fixture(scope="module")
def speller():
    """A model that says nothing but eight letters and spaces."""
    tokenizer, model = byte_tokenizer(), tiny("llama")
    letters = tokenizer(" abcdefgh", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.lm_head.weight[[i for i in range(len(model.lm_head.weight)) if i not in letters]] = 0
    return noiser.LanguageModel(model, tokenizer)


def test_word_takes_as_many_tokens_as_the_target(speller):
    prompts = [[5 + n, 9, 200 - n] for n in range(100)]
    plain = [continued(speller, ids, 4) for ids in prompts]
    texts = [speller.tokenizer.decode(ids) for ids, _ in plain]
    fit = [place for place, text in enumerate(texts) if re.fullmatch(" [a-h]{3}", text)]
    assert len(fit) > 3
    found = list(screen(speller, [Row(str(place), prompts[place], texts[place].strip()) for place in fit], "word"))
    assert [(each.answered, each.answer, each.target_ids) for each in found] == [(True, texts[place], plain[place][0]) for place in fit]
    assert [each.prob for each in found] == pytest.approx([plain[place][1] for place in fit], abs=1e-5)
    begun = [Row(str(place), prompts[place], f"{texts[place].strip()[:2]}x") for place in fit]
    assert {(each.answered, each.target_ids, each.reason) for each in screen(speller, begun, "word")} == {(False, None, OTHER_ANSWER)}
    first = [Row(str(place), prompts[place], texts[place].strip()) for place in fit]
    assert not any(each.answered for each in screen(speller, first, "token"))


def test_none_takes_every_row_that_can_be_read(lm):
    found = list(screen(lm, [Row("a", [5, 9], "ab"), Row("b", [5, 9]), Row("c", "", error="line 3 is not JSON")], "none"))
    assert [each.answered for each in found] == [True, True, False]
    assert [each.target_ids for each in found] == [lm.tokens.ids(" ab"), None, None]
    assert found[2].reason == "line 3 is not JSON"


def test_alone_or_among_others(lm):
    """32 rows share passes; the numbers are those of each row alone."""
    generator = torch.Generator().manual_seed(0)
    many = [Row(str(n), torch.randint(3, 250, (2 + n % 17,), generator=generator).tolist(), "x") for n in range(40)]
    for together, row in zip(screen(lm, many, "token"), many, strict=True):
        (alone,) = screen(lm, [row], "token")
        assert (together.answer, together.reason) == (alone.answer, alone.reason)
        assert together.prob == pytest.approx(alone.prob, abs=1e-5)


def test_every_row_has_an_answer_or_a_reason(lm):
    hard = [
        Row("long", [5] * 65, "a"),
        Row("fits", [5] * 64, None),
        Row("empty", [], "a"),
        Row("id", [5, 300], "a"),
        Row("blank", [5, 9], " "),
        Row("surrogate", "\ud800", "a"),
        Row("line", "", error="line 7 is not JSON"),
    ]
    seen = []
    found = {each.row.id: each for each in screen(lm, hard, "token", on_row=seen.append)}
    assert [each.row.id for each in seen] == list(found) == [row.id for row in hard]
    assert not any(each.answered for each in seen)
    assert found["long"].reason == "the prompt has 65 tokens and the model takes 64; nothing is ever cut off silently: shorten it"
    assert (found["fits"].reason, found["blank"].reason) == (NO_TARGET, NO_TARGET)
    assert found["empty"].reason.startswith("the prompt has no tokens")
    assert found["id"].reason.startswith("token ids go from 0 to")
    assert found["surrogate"].reason.startswith("the text is not valid Unicode")
    assert (found["line"].reason, found["line"].answer, found["line"].prob) == ("line 7 is not JSON", "", 0.0)


def test_limit_counts_answers(lm):
    words = [lm.tokens.surface(continued(lm, ids, 1)[0][0]).strip() for ids in PROMPTS]
    found = list(screen(lm, rows("no", words[1], "no", words[3], words[4]), "token", limit=2))
    assert [each.answered for each in found] == [False, True, False, True]
    for limit in (0, True):
        with pytest.raises(OptionError, match=re.escape(f"limit must be a whole number from 1 on; got {limit!r}")):
            screen(lm, [], "token", limit=limit)
    with pytest.raises(OptionError, match="match must be one of token, word, none; got 'all'"):
        screen(lm, [], "all")


def test_the_lowest_id_among_equals():
    level = noiser.LanguageModel(ToyLM([0.0, 0.0], bias=0.0), byte_tokenizer())
    (found,) = screen(level, [Row("a", [1, 1], "<pad>")], "token")
    assert (found.answered, found.target_ids, found.prob) == (True, (0,), 0.5)


def test_what_is_not_a_number_is_no_answer():
    broken = noiser.LanguageModel(BrokenLM([1.0, 1.0], when_clean=True), byte_tokenizer())
    for match, target in (("token", "<pad>"), ("token", None), ("none", None)):
        (found,) = screen(broken, [Row("a", [0, 1], target)], match)
        assert (found.answered, found.reason, found.answer, found.prob) == (False, NONFINITE, "", 0.0)


def test_a_row_that_does_not_fit_into_memory(lm, monkeypatch):
    def forward(group, gradient):
        if any(len(run.prompt) > 5 for run in group):
            raise torch.OutOfMemoryError("out of memory")
        return plain(group, gradient)

    plain = lm._forward
    monkeypatch.setattr(lm, "_forward", forward)
    reasons = [each.reason for each in screen(lm, rows("x", "x", "x", "x", "x"), "token")]
    assert reasons == [OOM, OTHER_ANSWER, OOM, OTHER_ANSWER, OTHER_ANSWER]


def test_what_is_wrong_with_the_model_is_no_rows_fault(lm, monkeypatch):
    def refuse(runs):
        raise ModelError("it cannot be explained")

    monkeypatch.setattr(lm, "forward", refuse)
    with pytest.raises(ModelError, match="it cannot be explained"):
        list(screen(lm, rows("a", "b", "c", "d", "e"), "token"))


@pytest.mark.slow
def test_the_shipped_sets_on_the_default_model(smol):
    """73 of known-mini and 28 of longra-mini; with room for other versions of torch."""
    known = list(screen(smol, read("known-mini").rows, "token"))
    answered = Counter(each.row.group for each in known if each.answered)
    print(f"known-mini: {answered.total()} of {len(known)}")
    assert 60 <= answered.total() <= len(known) - 5
    assert len(answered) == 12
    assert min(answered.values()) >= 4
    for each in known[::16]:
        with torch.no_grad():
            logits = smol.model(**smol.tokenizer(each.row.prompt, return_tensors="pt")).logits[0, -1]
        assert each.answered == (smol.tokenizer.decode(logits.argmax()).strip() == each.row.target)
        assert math.isclose(each.prob, float(logits.softmax(-1).max()), abs_tol=1e-4)
    longra = list(screen(smol, read("longra-mini").rows, "token"))
    kinds = Counter(each.row.fields["type"] for each in longra if each.answered)
    print(f"longra-mini: {kinds.total()} of {len(longra)}")
    assert 25 <= kinds.total() <= len(longra) - 5
    assert min(kinds[kind] for kind in ("capital-common-countries", "capital-world")) >= 2


@pytest.fixture
def loaded(lm, monkeypatch):
    monkeypatch.setattr("noiser.lm.load.load", lambda model, **_: lm)


def test_stats_add_up(lm, loaded, tmp_path):
    words = [lm.tokens.surface(continued(lm, ids, 1)[0][0]).strip() for ids in PROMPTS]
    lines = [
        {"prompt": list(ids), "target": word, "group": "ab"[place % 2]}
        for place, (ids, word) in enumerate(zip(PROMPTS, words, strict=True))
    ]
    lines += [{"prompt": [5], "target": "no", "group": "b"}, {"prompt": [5] * 65, "target": "a"}, {"prompt": [5]}, {"prompt": 5}]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out.json"
    run_stats(ModelOptions(model="it"), StatsArgs.checked([str(path), "wikibio-mini"], "token"), Output("json", out))
    own, wikibio = json.loads(out.read_text())["data"]
    assert (own["name"], own["source"], own["match"], own["rows"], own["answered"]) == ("own", "own.jsonl", "token", 9, 5)
    assert own["reasons"] == {OTHER_ANSWER: 1, "unreadable": 2, NO_TARGET: 1}
    assert own["rows"] == own["answered"] + sum(own["reasons"].values())
    assert [(each["group"], each["rows"], each["answered"]) for each in own["groups"]] == [("a", 3, 3), ("b", 3, 2)]
    assert own["low"] < own["share"] == 5 / 9 < own["high"]
    assert (wikibio["rows"], wikibio["answered"], wikibio["groups"]) == (20, 0, [])
    assert str(tmp_path) not in out.read_text()
    run_stats(ModelOptions(model="it"), StatsArgs.checked([str(path)], "token", 2), Output("table", out))
    assert re.search(r"own +a +1 +1 +100\.0%", out.read_text())
    assert "own (own.jsonl): match=token; not answered: none" in out.read_text()


@pytest.mark.parametrize(
    ("data", "match", "limit", "said"),
    [
        ([], None, None, "--data wants at least one set: known-mini, "),
        (["known-mini"], "all", None, "--match must be one of token, word, none; got 'all'"),
        (["known-mini"], None, 0, "--limit wants a number of rows from 1 on; got 0"),
    ],
)
def test_stats_of_what_does_not_exist(data, match, limit, said):
    with pytest.raises(OptionError, match=re.escape(said)):
        StatsArgs.checked(data, match, limit)


def test_the_list_says_what_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NOISER_DATA", str(tmp_path))
    (tmp_path / "longra.json").write_text("[]")
    out = tmp_path / "out"
    list_sets(Output("json", out))
    where = {each["name"]: (each["rows"], each["where"]) for each in json.loads(out.read_text())["data"]}
    assert where["known-mini"] == (96, "shipped")
    assert where["known"] == (1209, "not here; fetched when asked for")
    assert where["longra"] == (573, "$NOISER_DATA: longra.json")
    list_sets(Output("table", out))
    assert "known  1,209 rows  not here; fetched when asked for" in out.read_text()
