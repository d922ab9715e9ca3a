"""As many samples as a budget pays for: the tokens that were run are within it, and nearly all of it is used."""

import numpy as np
import pytest

import noiser
from noiser.attribution.budget import parse_budget
from noiser.errors import OptionError
from tests.conftest import byte_tokenizer, tiny

PROMPT = "one two three four"


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


@pytest.mark.parametrize(
    "method",
    [
        "noiser:bound=rms",
        "noiser:bound=none+samples=3",
        "noiser:bound=rms+samples=auto+tolerance=0.5+max_samples=50",
        "lime",
        "gradient_shap",
    ],
)
@pytest.mark.parametrize("budget", [4_000, 9_001])
def test_the_tokens_that_run_are_the_budget(lm, method, budget):
    """Mutants: the clean run left out of the count; an anchor's rows left out; the next larger number of samples; half as many."""
    spec = noiser.fit_budget(lm, PROMPT, method, budget)
    found = noiser.attribute(lm, PROMPT, spec)
    assert 0.95 * budget <= found.cost.forward_tokens <= budget
    assert found.stderr is not None
    assert noiser.methods.parse(spec.label).options == spec.options, "the label says all that is not a default"
    more = noiser.methods.parse(spec.name, {**spec.options, "samples": spec.options["samples"] + 2})
    assert noiser.attribute(lm, PROMPT, more).cost.forward_tokens > budget


def test_more_budget_makes_smaller_errors(lm):
    small, large = (noiser.attribute(lm, PROMPT, noiser.fit_budget(lm, PROMPT, "noiser:bound=rms+scale=1", n)) for n in (2_000, 30_000))
    assert np.median(large.stderr / small.stderr) < 0.5, "fifteen times the samples: a quarter of the error"


def test_a_continuation_is_paid_for_as_a_whole(lm):
    """Mutant: only the last target counted."""
    question = {"generate": 3}
    spec = noiser.fit_budget(lm, PROMPT, "noiser:bound=none", 20_000, **question)
    assert 18_000 <= noiser.attribute(lm, PROMPT, spec, **question).cost.forward_tokens <= 20_000


def test_a_time_is_turned_into_tokens(lm, monkeypatch):
    """Mutants: minutes taken as seconds; the backward pass forgotten."""
    monkeypatch.setattr("noiser.attribution.budget.seconds_per_token", lambda *_: 0.001)
    tokens = {
        each: noiser.attribute(lm, PROMPT, noiser.fit_budget(lm, PROMPT, "lime", each)).cost.forward_tokens for each in ("3s", "0.1m")
    }
    assert tokens["3s"] == pytest.approx(2_700, rel=0.05) and tokens["0.1m"] == pytest.approx(5_400, rel=0.05)
    cost = noiser.attribute(lm, PROMPT, noiser.fit_budget(lm, PROMPT, "gradient_shap", "3s")).cost
    assert cost.forward_tokens + cost.backward_tokens == pytest.approx(2_700, rel=0.08)


@pytest.mark.parametrize(
    ("text", "found"), [(50_000, (50_000, False)), ("50,000", (50_000, False)), ("30s", (30, True)), ("1.5m", (90, True))]
)
def test_budgets_are_read(text, found):
    assert parse_budget(text) == found


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "30 minutes", "s", True, "1e9", "nan", "\u0663"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(OptionError, match="a budget is a number of token-forwards"):
        parse_budget(text)


def test_what_cannot_keep_a_budget_is_refused(lm):
    with pytest.raises(OptionError, match="occlusion draws no samples"):
        noiser.fit_budget(lm, PROMPT, "occlusion", 1000)
    with pytest.raises(OptionError, match=r"4 samples take .* more than the budget of 100"):
        noiser.fit_budget(lm, PROMPT, "noiser:bound=rms", 100)
