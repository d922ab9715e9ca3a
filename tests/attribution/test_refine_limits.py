"""The budget of `unit=auto`, its end, and methods that decide by what they measure.

The budget is compared with what the model counted, not with what the result says.

Mutants caught, each run: the guard left out of a round; a dropped round left out of the cost; the clean run of the plain run counted
twice, or not at all; a computation ended one token too early. Not run as mutants: the guard left out of the plain run, a plain run
before the coarsest level, parts of a dropped round tried again.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import noiser
from noiser.attribution.budget import within
from noiser.attribution.refine import KNOWN, level_costs
from noiser.errors import OptionError, Stopped
from noiser.lm.target import Question
from noiser.methods import parse
from tests.attribution.test_refine import COUNT, NAMES, made, walk
from tests.conftest import byte_tokenizer, tiny

PROMPT = "One two. Three four.\n\nFive six! Seven 🙂 eight. Nine"
FIXED = ["occlusion", "noiser:bound=rms+scale=4+samples=3", "lime:samples=30", "shapley:samples=60"]
SEARCHING = ["noiser:samples=3", "noiser:bound=k_max_per_token+samples=2+steps=4", "noiser:bound=rms+scale=4+samples=auto+max_samples=16"]


@pytest.fixture(scope="module")
def llama():
    return noiser.LanguageModel(tiny("llama", max_position_embeddings=512), byte_tokenizer())


def auto(method):
    return f"{method}{'+' if ':' in method else ':'}unit=auto"


def counted(lm, *arguments, **options):
    """The result, or the error, and the tokens that went through the model."""
    before = lm.token_counter.forward_tokens
    try:
        result = noiser.attribute(lm, *arguments, **options)
    except OptionError as error:
        result = error
    return result, lm.token_counter.forward_tokens - before


@pytest.mark.parametrize("method", [*FIXED, *SEARCHING])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(budget=1)
@example(budget=400)
@example(budget=10**7)
@given(budget=st.integers(60, 60_000))
def test_no_budget_is_passed(llama, method, budget):
    found, tokens = counted(llama, PROMPT, auto(method), budget=budget)
    if isinstance(found, OptionError):
        assert "budget" in str(found)
        assert tokens <= max(budget, len(llama.prompt(PROMPT)))  # the clean run says that it does not pay
        return
    assert tokens == found.cost.forward_tokens <= budget
    for part in walk(found.notes.get("levels", [])):
        if part["parts"]:
            assert sum(child["score"] for child in part["parts"]) == pytest.approx(part["score"], abs=1e-12)
    assert sum(each["forward_tokens"] for each in found.notes.get("rounds", [])) <= tokens


@pytest.mark.parametrize("method", SEARCHING)
def test_a_search_with_a_large_budget_is_the_plain_run(llama, method):
    plain = noiser.attribute(llama, PROMPT, method)
    found, tokens = counted(llama, PROMPT, auto(method), budget=20 * plain.cost.forward_tokens)
    assert isinstance(found, noiser.Attribution)
    np.testing.assert_array_equal(found.scores, plain.scores)
    assert found.notes["k"] == plain.notes["k"]
    coarsest = noiser.attribute(llama, PROMPT, f"{method}+unit=paragraph").cost.forward_tokens - len(llama.prompt(PROMPT))
    assert tokens == found.cost.forward_tokens == plain.cost.forward_tokens + coarsest


def test_a_plain_run_that_does_not_end_leaves_the_coarsest_level(llama):
    """Draws until it is precise: eight are planned for, 32 are needed."""
    method = "noiser:bound=rms+scale=4+samples=auto+max_samples=32+tolerance=0.001"
    least = noiser.estimate(llama, PROMPT, method).forward_tokens
    found, tokens = counted(llama, PROMPT, auto(method), budget=3 * least)
    assert isinstance(found, noiser.Attribution)
    assert tokens == found.cost.forward_tokens <= 3 * least
    coarsest, plain = found.notes["rounds"][:2]
    assert (coarsest["ended"], plain["ended"]) == (True, False)
    assert plain["parts"] == len(llama.prompt(PROMPT))
    assert [part["level"] for part in found.notes["levels"]] == ["paragraph", "paragraph"]


def test_the_coarsest_level_of_a_search_is_that_of_the_method_alone():
    """A model whose first logit is a sum, and a prompt with three named spans: each round has the `k_min` of its own parts."""
    weights = [0.01] * COUNT
    weights[3], weights[9] = 1.0, 0.6
    lm, prompt = made(weights)
    plain = noiser.attribute(lm, prompt, "noiser:samples=4+unit=span")
    found, tokens = counted(lm, prompt, "noiser:samples=4+unit=auto", budget=plain.cost.forward_tokens + 8 * COUNT)
    assert isinstance(found, noiser.Attribution)
    assert tokens <= plain.cost.forward_tokens + 8 * COUNT
    assert [part["name"] for part in found.notes["levels"]] == list(NAMES)
    np.testing.assert_allclose([part["raw"] for part in found.notes["levels"]], plain.by("span").scores[0])
    assert found.notes["rounds"][0]["k"] == plain.notes["k"]


def test_a_search_follows_an_answer_down_to_the_word_that_it_hangs_on():
    weights = [0.002] * COUNT
    weights[6] = 1.0
    lm, prompt = made(weights)
    plain = noiser.attribute(lm, prompt, "noiser:samples=4")
    found, tokens = counted(lm, prompt, "noiser:samples=4+unit=auto", budget=plain.cost.forward_tokens * 4 // 5)
    assert isinstance(found, noiser.Attribution)
    assert tokens < plain.cost.forward_tokens
    assert int(plain.scores[0].argmax()) == int(found.scores[0].argmax()) == 6


def test_a_round_that_the_budget_ends_is_dropped_and_said(llama):
    """The least that a round takes fits, and what it takes does not: its parts stay whole, and its tokens are in the cost."""
    spec = parse("noiser:samples=3+unit=auto")
    least = level_costs(llama, PROMPT, spec, Question())
    assert not any(each["exact"] for each in least)
    dropped = None
    for budget in range(least[0]["forward_tokens"], 30 * least[0]["forward_tokens"], least[0]["forward_tokens"] // 2):
        found, tokens = counted(llama, PROMPT, spec, budget=budget)
        if isinstance(found, noiser.Attribution) and not all(each["ended"] for each in found.notes.get("rounds", [])):
            dropped = found
            assert tokens == found.cost.forward_tokens <= budget
            break
    assert dropped is not None
    lost = sum(each["forward_tokens"] for each in dropped.notes["rounds"] if not each["ended"])
    assert any(f"{lost:,} token-forwards were spent on it" in warning for warning in dropped.notes["warnings"])
    assert dropped.notes["unrefined"] > 0


def test_a_budget_that_ends_inside_the_coarsest_level_is_an_error_that_names_a_way_out(llama):
    least = level_costs(llama, PROMPT, parse("noiser:samples=3+unit=auto"), Question())[0]["forward_tokens"]
    with pytest.raises(OptionError, match="would go on beyond the budget") as error:
        noiser.attribute(llama, PROMPT, "noiser:samples=3+unit=auto", budget=least)
    assert KNOWN in str(error.value)
    with pytest.raises(OptionError, match=r"at least .* more than the budget"):
        noiser.attribute(llama, PROMPT, "noiser:samples=3+unit=auto", budget=least - 1)


def test_within_ends_before_the_request_that_is_too_much(llama):
    from noiser.attribution.explain import run_method
    from noiser.lm.scheduler import run_one
    from noiser.lm.target import resolve_target

    spec = parse("occlusion")
    (resolved,), _ = run_one(llama, resolve_target(llama.tokens, llama.prompt("abcd"), Question(), None))
    output, cost = run_one(llama, run_method(llama, spec, resolved))
    same, _ = run_one(llama, within(run_method(llama, spec, resolved), cost.forward_tokens))
    assert same is not None
    np.testing.assert_array_equal(same.scores, output.scores)
    none, spent = run_one(llama, within(run_method(llama, spec, resolved), cost.forward_tokens - 1))
    assert none is None
    assert spent.forward_tokens == 0


@pytest.mark.parametrize("method", [*FIXED[:2], SEARCHING[0]])
def test_it_can_be_stopped_anywhere_and_leaves_the_model_as_it_was(llama, method):
    """As by Ctrl-C or a client that leaves: at each report of progress."""
    before = noiser.attribute(llama, PROMPT, auto(method), budget=4000)
    reports = []
    with llama.progress_callback(lambda done, remaining: reports.append(done)):
        noiser.attribute(llama, PROMPT, auto(method), budget=4000)
    assert len(reports) > 3
    assert reports == sorted(reports)
    for stop in range(0, len(reports), max(1, len(reports) // 4)):
        left = [stop]

        def check(done, remaining, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        with pytest.raises(Stopped), llama.progress_callback(check):
            noiser.attribute(llama, PROMPT, auto(method), budget=4000)
    again = noiser.attribute(llama, PROMPT, auto(method), budget=4000)
    assert again.scores.tobytes() == before.scores.tobytes()
    assert again.cost.forward_tokens == before.cost.forward_tokens


@pytest.mark.parametrize("method", FIXED[:2])
def test_a_prompt_of_one_sentence_is_the_plain_run(llama, method):
    """No level but words and tokens divides it: with a budget for words it is `unit=word`, with one for tokens `unit=token`."""
    text = "The old bridge stands"
    for unit in ("word", "token"):
        plain = noiser.attribute(llama, text, f"{method}{'+' if ':' in method else ':'}unit={unit}")
        found, _ = counted(llama, text, auto(method), budget=plain.cost.forward_tokens)
        assert isinstance(found, noiser.Attribution)
        np.testing.assert_allclose(found.scores, plain.scores, atol=1e-7)
        assert found.cost.forward_tokens == plain.cost.forward_tokens


def test_a_prompt_that_nothing_divides(llama):
    found, tokens = counted(llama, "a", "occlusion:unit=auto", budget=100)
    assert isinstance(found, noiser.Attribution)
    assert tokens <= 100
    refused, _ = counted(llama, "a", "occlusion:unit=auto", budget=1)
    assert isinstance(refused, OptionError)
