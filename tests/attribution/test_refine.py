"""Coarse to fine: what is refined is right, adds up, and never costs more than the budget.

The oracle is a model whose first logit is a sum over tokens of known positive contributions: occlusion with zeros measures the sum over
any part exactly, so every part's score must be that sum, however the budget cut the work.

Mutants caught, each run: the budget compared without the clean run; a round that may take more than is left; the parts' raw values
instead of shares; the least important part refined first; a part's parts measured with all other parts as spans too; children of
another sign counted; the plain run left out where the budget pays for it; tokens of one character divided.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import noiser
from noiser.attribution.refine import LEVELS, level_costs
from noiser.errors import OptionError
from noiser.lm.target import Question
from noiser.methods import parse
from noiser.text.prompt import Prompt
from noiser.text.spans import NamedSpan
from tests.conftest import byte_tokenizer, tiny
from tests.toys import LinearLM

TEXT = (
    "Bridges. The old bridge is at the mill. Oskar built it.\n\nNow walkers cross it daily. "
    "Harbour. Ships carry cork. They come from Lisbon in spring. "
    "Which mason built it? Oskar"
)
SPANS = ((0, TEXT.index("Harbour")), (TEXT.index("Harbour"), TEXT.index("Which")), (TEXT.index("Which"), len(TEXT)))
NAMES = ("bridges", "harbour", "question")


def first_logit(logits):
    return logits[0]


def made(weights):
    """A model in which each word of TEXT adds its weight to the first logit, and the prompt of one token a word."""
    model = LinearLM(len(weights))
    ids = tuple(n % 2 for n in range(len(weights)))
    embeds = model.embedding.weight.detach()[list(ids)]
    model.slope = torch.tensor(weights, dtype=torch.float32)[:, None] * embeds / embeds.square().sum(-1, keepdim=True)
    offsets = tuple(word.span() for word in re.finditer(r"\w+|[^\w\s]", TEXT))
    spans = tuple(NamedSpan(name, *span) for name, span in zip(NAMES, SPANS, strict=True))
    prompt = Prompt(TEXT, ids, tuple(TEXT[a:b] for a, b in offsets), (False,) * len(ids), offsets, spans=spans)
    return noiser.LanguageModel(model, byte_tokenizer()), prompt


COUNT = len(re.findall(r"\w+|[^\w\s]", TEXT))
weights = st.lists(st.floats(0.01, 1.0), min_size=COUNT, max_size=COUNT)


def walk(parts):
    for part in parts:
        yield part
        yield from walk(part["parts"])


@settings(max_examples=25, deadline=None)
@given(weights, st.integers(4 * COUNT, COUNT * COUNT))
def test_every_part_has_the_sum_of_what_its_tokens_add_and_the_budget_is_never_passed(weights, budget):
    lm, prompt = made(weights)
    found = noiser.attribute(lm, prompt, "occlusion:unit=auto", first_logit, budget=budget)
    assert found.cost.forward_tokens <= budget
    assert "levels" in found.notes
    roots = found.notes["levels"]
    assert [part["name"] for part in roots] == list(NAMES)
    for part in walk(roots):
        expected = sum(weights[token] for token in part["tokens"])
        assert part["score"] == pytest.approx(expected, rel=1e-3, abs=1e-4)
        if part["parts"]:
            assert sorted(token for child in part["parts"] for token in child["tokens"]) == part["tokens"]
            assert sum(child["score"] for child in part["parts"]) == pytest.approx(part["score"])
            assert all(LEVELS.index(child["level"]) > LEVELS.index(part["level"]) for child in part["parts"])
    assert found.scores.sum() == pytest.approx(sum(weights), rel=1e-3)


def test_an_answer_that_hangs_on_one_word_is_followed_down_to_it():
    """The one heavy word is found with a third of the rows of every token."""
    weights = [0.001] * COUNT
    place = [m.group() for m in re.finditer(r"\w+|[^\w\s]", TEXT)].index("Oskar")
    weights[place] = 1.0
    lm, prompt = made(weights)
    found = noiser.attribute(lm, prompt, "occlusion:unit=auto", first_logit, budget=14 * COUNT)
    assert int(found.scores[0].argmax()) == place
    assert found.scores[0, place] == pytest.approx(1.0, rel=1e-3)
    (harbour,) = [part for part in found.notes["levels"] if part["name"] == "harbour"]
    assert not harbour["refined"]
    assert found.notes["unrefined"] > 0
    labels = found.by("span").units.texts
    assert {"harbour", "Oskar"} <= set(labels)


def test_a_part_that_speaks_against_its_whole_gets_no_share_of_it():
    words = [m.group() for m in re.finditer(r"\w+|[^\w\s]", TEXT)]
    weights = [0.1] * COUNT
    weights[words.index("mill")] = -0.05
    lm, prompt = made(weights)
    found = noiser.attribute(lm, prompt, "occlusion:unit=auto", first_logit, budget=COUNT * COUNT - 1)
    (mill,) = [part for part in walk(found.notes["levels"]) if part["name"] == "mill"]
    assert mill["raw"] == pytest.approx(-0.05, rel=1e-3)
    assert mill["score"] == 0


def test_a_part_that_stands_around_another_is_refined_without_it():
    """The inner span is one heavy word in the middle of a sentence, and is not refined."""
    place = [m.group() for m in re.finditer(r"\w+|[^\w\s]", TEXT)].index("mill")
    weights = [0.01] * COUNT
    weights[0], weights[place] = 1.0, 0.5
    lm, prompt = made(weights)
    prompt = replace(prompt, spans=(NamedSpan("outer", 0, len(TEXT)), NamedSpan("inner", *prompt.offsets[place])))
    found = noiser.attribute(lm, prompt, "occlusion:unit=auto", first_logit, budget=12 * COUNT)
    outer, inner = found.notes["levels"]
    assert outer["refined"]
    assert inner["tokens"] == [place]
    for part in walk([outer]):
        assert place not in part["tokens"]
        assert part["raw"] == pytest.approx(sum(weights[token] for token in part["tokens"]), rel=1e-3, abs=1e-4)


def test_with_a_budget_for_every_token_it_is_the_plain_run():
    lm, prompt = made([0.1] * COUNT)
    plain = noiser.attribute(lm, prompt, "occlusion", first_logit)
    found = noiser.attribute(lm, prompt, "occlusion:unit=auto", first_logit, budget=plain.cost.forward_tokens)
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert found.unit == "token"
    less = noiser.attribute(lm, prompt, "occlusion:unit=auto", first_logit, budget=plain.cost.forward_tokens - 1)
    assert less.unit == "span"


METHODS = ["occlusion", "noiser:bound=rms+scale=4+samples=3", "lime:samples=30", "shapley:samples=60"]


@pytest.fixture(scope="module")
def llama():
    return noiser.LanguageModel(tiny("llama", max_position_embeddings=512), byte_tokenizer())


PROMPT = "One two. Three four.\n\nFive six! Seven 🙂 eight. Nine"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("question", [{}, {"target": 17, "foil": 18}, {"continuation": (5, 6, 7), "span": (0, 2)}], ids=str)
def test_every_method_and_target_keeps_the_budget_and_adds_up(llama, method, question):
    full = noiser.estimate(llama, PROMPT, f"{method}", **question).forward_tokens
    coarse = level_costs(llama, PROMPT, parse(f"{method}{'+' if ':' in method else ':'}unit=auto"), Question(**question))
    budget = max(each["forward_tokens"] for each in coarse[:3]) + full // 4
    label = f"{method}{'+' if ':' in method else ':'}unit=auto"
    found = noiser.attribute(llama, PROMPT, label, budget=budget, **question)
    assert found.cost.forward_tokens <= budget
    for part in walk(found.notes.get("levels", [])):
        if part["parts"]:
            assert sum(child["score"] for child in part["parts"]) == pytest.approx(part["score"])
            assert all(child["score"] * part["score"] >= 0 for child in part["parts"])


def test_what_a_level_would_cost_is_what_it_costs(llama):
    costs = level_costs(llama, PROMPT, parse("occlusion:unit=auto"), Question())
    assert [each["level"] for each in costs] == ["paragraph", "sentence", "word", "token"]
    for each in costs:
        found = noiser.attribute(llama, PROMPT, f"occlusion:unit={each['level']}")
        assert each["forward_tokens"] == pytest.approx(found.cost.forward_tokens, rel=0.15)  # a unit may have whitespace that this has not
        assert each["parts"] == len(found.by(each["level"]).units.texts) or each["level"] == "token"


def test_tokens_of_one_character_stay_together(llama):
    found = noiser.attribute(llama, "🙂🙂 a b", "occlusion:unit=auto", budget=60)
    places = [part["tokens"] for part in walk(found.notes["levels"]) if part["name"] == "🙂"]
    assert all(len(tokens) == 4 for tokens in places)


REFUSED = {
    "no budget": ("occlusion:unit=auto", {}, "needs a budget"),
    "too little": ("occlusion:unit=auto", {"budget": 60}, "more than the budget"),
    "several targets": ("occlusion:unit=auto", {"budget": 10**6, "continuation": (5, 6)}, "one target at a time"),
    "no budget at all": ("occlusion:unit=auto", {"budget": "soon"}, "a budget is a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(llama, case):
    method, arguments, message = REFUSED[case]
    with pytest.raises(OptionError, match=message):
        noiser.attribute(llama, PROMPT, method, **arguments)


def test_it_can_be_stopped_and_reports_progress(llama):
    seen = []
    with llama.progress_callback(lambda done, remaining: seen.append(done)):
        noiser.attribute(llama, PROMPT, "occlusion:unit=auto", budget=700)
    assert len(seen) > 2
    assert seen == sorted(seen)


def test_it_is_saved_and_read_back(llama, tmp_path):
    found = noiser.attribute(llama, PROMPT, "occlusion:unit=auto", budget=700)
    (tmp_path / "a.json").write_text(found.to_json())
    again = noiser.read(tmp_path / "a.json")
    assert isinstance(again, noiser.Attribution)
    assert again.scores.tobytes() == found.scores.tobytes()
    assert again.by("span").units.texts == found.by("span").units.texts
