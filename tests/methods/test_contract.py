"""What every method keeps, by being registered: a method of another package is tested by the same lines.

Mutants caught, one line each: the attention of a configuration not set back, or its hooks not removed (lm/attention.py); the
seed left out of the generator's key (seeding.py); GradientSHAP drawing from `np.random`; the first rows' edits in every part
of perturbed rows (lm/perturbation.py), or the first rows' weights (lm/batching.py); another member's logits where more than five share a
batch, and a query that sees the clean version of its edited token (lm/layout.py), both in the packed layout; noise named by
the whole continuation instead of what comes before its token (methods/noiser.py); as many scores as the sequence has tokens
that the target is read off (methods/controls.py); `return value` for `return int(value)` (registry.py); the foil not
subtracted (lm/measure.py).
"""

import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch

import noiser
import noiser.methods  # enters every method, those of other packages too
from noiser.errors import ModelError, NoiserError, OptionError
from noiser.registry import METHODS, Range
from noiser.text.prompt import Turn
from noiser.text.spans import NamedSpan
from tests.conftest import byte_tokenizer, tiny
from tests.lm.test_restore import same, state

NAMES = sorted(METHODS)
PROMPT = (7, 200, 31, 150, 31, 99)
COMPANY = [(5, 9, 5), PROMPT, (120, 60, 30, 15, 7, 3, 1, 40)]
CONTINUATION = (44, 45, 46)
SMALL = {"steps": 8, "samples": 4}
FAMILIES = ["llama", "gpt2", "gemma3_text", "falcon", "opt", "bloom", "mistral"]
TOLERANCE = 1e-5
RANDOM = """
import random
import noiser, noiser.methods, noiser.attribution.attribute
from tests.methods.test_contract import NAMES, PROMPT, explained
from tests.conftest import byte_tokenizer, tiny
lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
explained("recency", lm)
for name in NAMES:
    explained(name, lm)  # the first call may import something, and imports may draw
    before = random.getstate()
    explained(name, lm)
    assert random.getstate() == before, name
"""


def small(name: str) -> dict[str, Any]:
    """Whichever of the costly options the method has, turned down."""
    return {option: value for option, value in SMALL.items() if option in METHODS[name].options}


@cache
def model(family: str = "llama", dtype: torch.dtype = torch.float32) -> noiser.LanguageModel:
    return noiser.LanguageModel(tiny(family).to(dtype), byte_tokenizer())


def explained(name: str, lm: noiser.LanguageModel | None = None, prompt: Any = PROMPT, **arguments: Any) -> noiser.Attribution:
    return noiser.attribute(lm or model(), prompt, name, **{**small(name), **arguments})


@cache
def alone(name: str) -> noiser.Attribution:
    """What the method says on its own, with everything at its default."""
    return explained(name)


def agrees(found: noiser.Attribution, expected: noiser.Attribution) -> None:
    """The same scores to rounding, and exactly the same scale where there is one."""
    assert found.prompt == expected.prompt
    assert found.notes.get("k") == expected.notes.get("k")
    np.testing.assert_allclose(found.scores, expected.scores, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def values(annotation: Any) -> list[Any]:
    """Native values that an option of that annotation may take: every choice, both ends of a range."""
    if get_origin(annotation) is Annotated:
        limits = get_args(annotation)[1]
        assert isinstance(limits, Range)
        return [get_args(annotation)[0](end) for end in (limits.low, limits.high)]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return [value for kind in get_args(annotation) for value in values(kind)]
    return {int: [0, 7], float: [0.5, 2.0], bool: [True, False], str: ["a"], type(None): [None]}[annotation]


def choices(name: str) -> list[tuple[str, Any]]:
    """Every option of the method with every value that it is tried with."""
    annotations = METHODS[name].function.__annotations__
    return [(option, value) for option in METHODS[name].options for value in values(annotations[option])]


def test_methods_are_registered():
    assert len(NAMES) >= 14
    assert all(METHODS[name].name == name for name in NAMES)


def test_what_a_method_is_is_stated(name):
    entry = METHODS[name]
    assert entry.family in {"perturbation", "gradient", "attention", "control"} or entry.family.isidentifier()
    assert entry.source.strip()
    assert entry.cost not in ("", "not stated")
    described = entry.function.__doc__ or ""
    assert re.match(r"\S.*\w.*\.", described), "the docstring begins with a sentence"
    for option in set(entry.options) - {"seed"}:
        assert re.search(rf"\b{option}\b", described), f"the docstring does not say what {option} does"


def test_one_finite_score_for_each_token(name):
    found = alone(name)
    assert found.scores.shape == (1, len(PROMPT))
    assert found.scores.dtype == np.float64
    assert np.isfinite(found.scores).all()
    assert found.scores.any(), "all 0 would agree with anything"
    assert found.prompt.input_ids == PROMPT
    assert found.method == name
    assert isinstance(found.notes["warnings"], list)
    assert found.to_json()


def test_the_seed_and_nothing_else_decides_chance(name):
    again = explained(name)
    assert again.scores.tobytes() == alone(name).scores.tobytes()
    if "seed" not in METHODS[name].options:
        assert again.seed is None
        return
    assert again.seed == METHODS[name].options["seed"]
    assert "seed" not in again.options
    other = explained(name, seed=12345)
    assert other.seed == 12345
    assert np.abs(other.scores - again.scores).max() > 1e-4


@pytest.mark.parametrize("budget", [1, 7, 64])
def test_the_size_of_a_batch_does_not_matter(name, budget):
    agrees(explained(name, noiser.LanguageModel(model().model, model().tokenizer, token_budget=budget)), alone(name))


def test_the_prefix_does_not_matter(name):
    full = explained(name, noiser.LanguageModel(model().model, model().tokenizer, prefix=False))
    layouts = tuple(found.notes.get("layout") for found in (alone(name), full))
    only_clean = alone(name).cost.forward_tokens <= len(PROMPT) or METHODS[name].ahead is not None
    assert layouts == ((None, None) if only_clean else ("packed", "full: asked for"))
    agrees(full, alone(name))


def test_prompts_beside_it_do_not_matter(name):
    together = list(noiser.attribute_many(model(), COMPANY, name, **small(name)))
    agrees(together[1], alone(name))
    for found, prompt in zip(together, COMPANY, strict=True):
        agrees(found, explained(name, prompt=prompt))


class UsersOwnError(Exception):
    """No kind of error that the engine may take for a sign of anything."""


def found_state(lm):
    """`state`, and the attention of every configuration in the model."""
    configs = {where: module.config for where, module in lm.model.named_modules() if hasattr(module, "config")}
    kinds = {where: config._attn_implementation for where, config in configs.items()}
    return {**state(lm.model, lm.tokenizer), "attention": kinds}


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_all_is_as_found_after_success_and_after_an_exception_in_its_last_call(name, family):
    """`opt` has activations that DeepLIFT's rule hooks into. The number of calls is counted first, whatever the method."""
    lm = noiser.LanguageModel(tiny(family).train(), byte_tokenizer())
    explained(name, lm, target=17)  # the trial and the check of the model, which run once
    calls, last = [], [0]

    def count(*_):
        calls.append(1)
        if len(calls) == last[0]:
            raise UsersOwnError

    lm.model.register_forward_pre_hook(count)
    before = found_state(lm)
    explained(name, lm, target=17)
    same(before, found_state(lm))
    last[0], calls[:] = len(calls), []
    with pytest.raises(ModelError, match="UsersOwnError"):
        explained(name, noiser.LanguageModel(lm.model, lm.tokenizer), target=17)
    same(before, found_state(lm))


def test_pythons_own_generator_is_not_drawn_from():
    """In a process of its own: the type checker that runs along in these tests draws from it."""
    ended = subprocess.run([sys.executable, "-c", RANDOM], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_a_prompt_of_one_token(name):
    found = explained(name, prompt=[70])
    assert found.scores.shape == (1, 1)
    assert np.isfinite(found.scores).all()


def test_each_token_of_a_continuation_is_explained_by_all_before_it_and_by_nothing_else(name):
    found = explained(name, continuation=CONTINUATION)
    assert found.scores.shape == (3, len(PROMPT) + 2)
    assert [target.token_ids for target in found.targets] == [(token,) for token in CONTINUATION]
    for row, token in enumerate(CONTINUATION):
        before = (*PROMPT, *CONTINUATION[:row])
        assert found.targets[row].context == len(before)
        assert (found.scores[row, len(before) :] == 0).all()
        assert found.scores[row, : len(before)].any()
        apart = explained(name, prompt=before, target=token)
        np.testing.assert_allclose(found.scores[row, : len(before)], apart.scores[0], atol=TOLERANCE, rtol=TOLERANCE)


def log_odds(logits):
    return logits[17] - logits[18]


QUESTIONS = {
    "another token": {"target": 17},
    "three tokens": {"target": CONTINUATION},
    "a foil": {"target": 17, "foil": 18},
    "a foil to the prediction": {"foil": 18},
    "a foil of two tokens": {"target": 17, "foil": (18, 19)},
    "a span": {"continuation": CONTINUATION, "span": (1, 3)},
    "generated": {"generate": 3},
    "a function": {"target": log_odds},
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_every_question_is_answered(name, question):
    found = explained(name, **question)
    rows = len(found.targets)
    context = max(target.context for target in found.targets)
    assert 1 <= rows <= 3 if "generate" in question else rows == 1
    assert found.scores.shape == (rows, context)
    assert context == len(PROMPT) + question.get("span", (rows - 1,))[0]
    assert np.isfinite(found.scores).all()
    assert found.to_json()


def test_a_function_of_the_logits_is_explained_as_the_quantity_that_it_is(name):
    expected = explained(name, target=17, foil=18, quantity="log_odds")
    np.testing.assert_allclose(explained(name, target=log_odds).scores, expected.scores, atol=TOLERANCE, rtol=TOLERANCE)


def test_an_unknown_option_is_refused_with_the_list(name):
    with pytest.raises(OptionError) as refused:
        explained(name, colour="red")
    assert str(refused.value) == f"{name} has no option 'colour'; it has {', '.join(METHODS[name].options) or 'no options'}"


def resolved(name, given):
    """What an option becomes, its type along, or the sentence that refuses it."""
    try:
        return {option: (type(value), value) for option, value in METHODS[name].resolve(given).items()}
    except OptionError as error:
        return str(error)


def test_an_option_means_the_same_as_text(name):
    for option, value in choices(name):
        text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        assert resolved(name, {option: text}) == resolved(name, {option: value}), f"{option}={text}"
    for option, value in METHODS[name].options.items():
        assert resolved(name, {option: value}) == resolved(name, {}), f"{option}={value}, the default"


def test_every_choice_of_an_option_gives_scores(name):
    annotations = METHODS[name].function.__annotations__
    prompt = replace(model().prompt("Hi. a"), turns=(Turn("user", (0, 1)), Turn("assistant", (3, 4))))
    prompt = replace(prompt, spans=(NamedSpan("greeting", 0, 3), NamedSpan("letter", 4, 5)))
    tried = [(o, v) for o, v in choices(name) if get_origin(annotations[o]) is Literal and isinstance(resolved(name, {o: v}), dict)]
    for option, value in tried:
        if (option, value) == ("unit", "auto"):
            with pytest.raises(OptionError, match="needs a budget"):
                explained(name, prompt=prompt, unit="auto")
            continue
        found = explained(name, prompt=prompt, **{option: value})
        assert found.scores.shape == (1, 5), f"{option}={value}"
        assert np.isfinite(found.scores).all(), f"{option}={value}"
        assert found.options[option] == resolved(name, {option: value})[option][1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_gives_scores_or_says_why_not(name, dtype):
    try:
        found = explained(name, model("llama", dtype))
    except NoiserError as error:
        assert str(error)
        return
    assert found.scores.dtype == np.float64
    assert np.isfinite(found.scores).all()
    assert np.abs(found.scores - alone(name).scores).max() < 0.3 * np.abs(alone(name).scores).max() + 0.02


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_scores_or_the_remedy(name, family):
    try:
        found = explained(name, model(family))
    except ModelError as error:
        assert METHODS[name].family == "attention"
        assert "attention='eager'" in str(error)
        assert model(family).model.config._attn_implementation != "eager"
        return
    assert found.scores.shape == (1, len(PROMPT))
    assert np.isfinite(found.scores).all()
    assert found.scores.any()
