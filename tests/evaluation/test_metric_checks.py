"""The ladder on metrics that see everything, nothing, and the wrong way round; models whose answer is known; AUROC in closed form.

Mutants caught, each run: `better` left out of the sign; the noise's share for the scores'; other tokens drawn from those that decide;
a tie counted as won.
"""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import noiser
from noiser.errors import OptionError
from noiser.evaluation.metric_checks import LADDER, check_metrics, other_tokens
from noiser.evaluation.sanity_models import CIRCUITS, known_answers
from noiser.metrics import METRICS
from noiser.metrics.sample import Value
from noiser.registry import metric
from noiser.results.scores import auroc
from tests.conftest import byte_tokenizer, tiny

PROMPTS = ("The sky is", "Grass is so", "Snow is now", "A cat sat on", "Two and two", "Never say no")


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


@pytest.fixture
def made(monkeypatch, lm):
    """Metrics made for a test: what occlusion says, the same from below, nothing, and a number drawn at random."""
    before = dict(METRICS)
    true = {noiser.attribute(lm, text, "occlusion").prompt.input_ids: noiser.attribute(lm, text, "occlusion").scores[0] for text in PROMPTS}
    rng = np.random.default_rng(1)

    def likeness(context, candidate):
        return float(np.corrcoef(true[context.ids], candidate.scores)[0, 1]) if context.ids in true else 0.0

    values = {
        "sees": ("higher", likeness),
        "sees_lower": ("lower", lambda context, candidate: -likeness(context, candidate)),
        "blind": ("higher", lambda *_: 0.5),
        "dice": ("higher", lambda *_: float(rng.random())),
        "backwards": ("lower", likeness),
    }
    for name, (better, value) in values.items():

        @metric(name, source="a test", better=better, measures="m", failure_mode="f")
        def function(context, candidate, value=value):
            return Value(value(context, candidate))

    yield list(values)
    METRICS.clear()
    METRICS.update(before)


def test_the_ladder_tells_a_metric_that_sees_from_one_that_does_not(lm, made):
    found = {each.metric: each for each in check_metrics(lm, made, ["occlusion"], prompts=PROMPTS, draws=3).verdicts}
    for name in ("sees", "sees_lower"):
        assert found[name].ladder.value > 0.97, name
        assert found[name].ends.value == 1
        assert found[name].orders
    assert (found["blind"].ladder.value, found["blind"].ladder.low, found["blind"].orders) == (0.5, 0.5, False)
    assert not found["dice"].orders
    assert found["backwards"].ladder.value < 0.03
    assert "cannot order" in found["backwards"].said
    assert found["blind"].circuits == dict.fromkeys(CIRCUITS, 0.5)


def test_real_metrics_prefer_the_tokens_that_decide_and_methods_find_them(lm):
    checkup = check_metrics(lm, ["soft_nc", "comprehensiveness"], ["occlusion", "uniform", "recency"], prompts=PROMPTS)
    for verdict in checkup.verdicts:
        for circuit in ("copy", "shortcut", "conjunction"):
            assert verdict.circuits[circuit] == 1, (verdict.metric, circuit)
    for circuit in CIRCUITS:
        assert checkup.aurocs["occlusion"][circuit] > 0.95, circuit
        assert checkup.aurocs["uniform"][circuit] == 0.5
    assert checkup.aurocs["recency"]["shortcut"] < 0.9


@pytest.mark.parametrize("circuit", list(CIRCUITS))
def test_on_a_circuit_the_tokens_that_decide_do_and_the_others_do_not(circuit):
    """Without each of the tokens that decide the prediction moves; without another it hardly does. Redundant: without both."""
    for answer in known_answers(circuit, 4, 0):
        scores = noiser.attribute(answer.lm, answer.ids, "occlusion", quantity="log_prob").scores[0]
        causes = np.isin(np.arange(len(scores)), answer.causes)
        assert np.abs(scores[causes]).min() > 2 * np.abs(scores[~causes]).max() or circuit == "linear"
        assert not set(other_tokens(answer, 0)) & set(answer.causes)
        assert len(other_tokens(answer, 0)) == min(len(answer.causes), len(answer.ids) - len(answer.causes))


def test_one_cue_of_a_conjunction_is_not_enough_and_one_of_two_is():
    for circuit, stays in (("conjunction", False), ("redundant", True)):
        for answer in known_answers(circuit, 4, 0):
            whole = noiser.attribute(answer.lm, answer.ids, "uniform").target.token_ids
            ids = list(answer.ids)
            ids[answer.causes[0]] = 0
            assert (noiser.attribute(answer.lm, ids, "uniform").target.token_ids == whole) == stays


def test_auroc_is_scikit_learns():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 4, 9).astype(float)
        positive = rng.choice(9, 3, replace=False)
        assert auroc(scores, positive.tolist()) == pytest.approx(roc_auc_score(np.isin(np.arange(9), positive), scores))


def test_what_has_no_value_says_why(lm):
    (verdict,) = check_metrics(lm, ["aopc:operator=delete"], ["occlusion"], prompts=["a", "b"]).verdicts
    assert verdict.ladder.value is None
    assert "operator=delete needs two" in verdict.said + verdict.reason
    assert LADDER[0] == 0
    with pytest.raises(OptionError, match="asks a judge"):
        check_metrics(lm, ["answerability"])
