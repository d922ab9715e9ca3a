"""Erasure, curves and their limits against plain forward passes, one row at a time, and against every order of the tokens.

Mutants caught, each run: `retained` swapped; lowest first; a share rounded down; the target's ends not moved when tokens are
deleted; other replacements than those named by seed, tokens and draw; the whole prompt left out of a curve; a mean for
trapezoids; the minimum over parts for the best order; the worst order by the best's rule; log-probabilities of the wrong sign;
ties by position.
"""

from itertools import permutations

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import OptionError
from noiser.lm.requests import deduplicate, gather
from noiser.lm.scheduler import schedule
from noiser.lm.target import Question, resolve_target
from noiser.metrics import METRICS
from noiser.metrics.sample import MetricContext, ScoresToEvaluate
from noiser.rng import generator
from tests.conftest import byte_tokenizer, tiny

PROMPT = (7, 200, 31, 150, 99)
SCORES = np.array([0.1, -0.4, 0.9, 0.3, 0.2])
ORDER = [2, 3, 4, 0, 1]
POOL = (5, 60, 61, 62, 170, 180)
OPERATORS = ["zero", "delete", "resample", "infill"]
LAYOUTS = {"packed": {}, "full": {"prefix": False}}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request):
    return tiny(request.param)


@pytest.fixture(params=list(LAYOUTS))
def lm(model, request):
    return noiser.LanguageModel(model, byte_tokenizer(), **LAYOUTS[request.param])


def measured(lm, name, scores, *, prompt=PROMPT, question=None, **options):
    entry = METRICS[name]

    def asking():
        posed = yield from resolve_target(lm.tokens, lm.prompt(prompt), question or Question(), None)
        sample = MetricContext(lm, *posed[0], POOL)
        parts = [entry.function(sample, ScoresToEvaluate(np.asarray(each, float)), **entry.resolve(options)) for each in scores]
        return (yield from deduplicate(gather(parts)))

    (job,) = schedule(lm, [asking()])
    if job.error:
        raise job.error
    return job.result


def prob(model, kept, operator, target, prompt=PROMPT, draws=4):
    """The probability of `target` after what is left of the prompt, each row a plain forward pass of its own."""
    table = model.get_input_embeddings().weight
    ids = torch.tensor(prompt)
    kept = np.asarray(kept)
    with torch.no_grad():
        if operator == "delete":
            rows = [model(input_ids=ids[torch.from_numpy(kept)][None])]
        elif operator == "zero":
            embeds = table[ids] * torch.from_numpy(kept)[:, None]
            rows = [model(inputs_embeds=embeds[None])]
        elif operator == "infill":
            rows = [model(input_ids=torch.tensor([rewritten(model, kept, draw, prompt)])) for draw in range(draws)]
        else:
            rows = []
            for draw in range(draws):
                strangers = [POOL[place] for place in generator(0, prompt, "resample", draw).integers(len(POOL), size=len(prompt))]
                rows.append(model(input_ids=torch.where(torch.from_numpy(kept), ids, torch.tensor(strangers))[None]))
    return float(np.mean([row.logits[0, -1].double().softmax(-1)[target] for row in rows]))


def rewritten(model, kept, draw, prompt=PROMPT, seed=0):
    """The prompt with new tokens for those that are not kept, each drawn after a plain forward pass of what stands to its left."""
    tokenizer = byte_tokenizer()
    uniform = generator(seed, prompt, "infill", draw).random(len(prompt))
    ids = list(prompt)
    for position in np.flatnonzero(~np.asarray(kept)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:position] or [tokenizer.bos_token_id]])).logits[0, -1]
        weights = logits.float().softmax(-1).double().numpy()
        weights[[i for i in range(len(weights)) if i in tokenizer.all_special_ids or i >= len(tokenizer)]] = 0
        ids[position] = int(np.argmax(np.cumsum(weights) > uniform[position] * weights.sum()))
    return ids


@pytest.fixture
def target(model):
    with torch.no_grad():
        return int(model(input_ids=torch.tensor([PROMPT])).logits[0, -1].argmax())


def keeping(chosen):
    return np.isin(np.arange(len(PROMPT)), chosen)


@pytest.mark.parametrize("operator", OPERATORS)
def test_erasure_equals_plain_forwards(lm, model, target, operator):
    whole = prob(model, keeping(ORDER), operator, target)
    counts = [1, 1, 1, 1, 3]
    for name, left in (("sufficiency", keeping), ("comprehensiveness", lambda top: ~keeping(top))):
        expected = [whole - prob(model, left(ORDER[:count]), operator, target) for count in counts]
        (found,) = measured(lm, name, [SCORES], operator=operator)
        assert found.detail["tokens"] == counts
        np.testing.assert_allclose(found.detail["values"], expected, atol=2e-6)
        assert found.value == pytest.approx(np.mean(expected), abs=2e-6)
        assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("operator", OPERATORS)
def test_curves_equal_plain_forwards(lm, model, target, operator):
    last = 4 if operator == "delete" else 5
    going = [prob(model, ~keeping(ORDER[:count]), operator, target) for count in range(last + 1)]
    coming = [prob(model, keeping(ORDER[:count]), operator, target) for count in range(5 - last, 6)]
    expected = {
        "deletion": np.trapezoid(going, np.linspace(0, 1, last + 1)),
        "insertion": np.trapezoid(coming, np.linspace(0, 1, last + 1)),
        "aopc": going[0] - np.mean(going[1:]),
    }
    for name, value in expected.items():
        (found,) = measured(lm, name, [SCORES], operator=operator)
        assert found.value == pytest.approx(value, abs=2e-6), name


def test_log_odds_equal_plain_forwards(lm, model, target):
    for share, count in ((0.0, 1), (0.2, 1), (0.21, 2), (1.0, 5)):
        expected = np.log(prob(model, ~keeping(ORDER[:count]), "zero", target) / prob(model, keeping(ORDER), "zero", target))
        (found,) = measured(lm, "log_odds", [SCORES], share=share)
        assert found.value == pytest.approx(expected, abs=2e-5)
    (deleted,) = measured(lm, "log_odds", [SCORES], share=1.0, operator="delete")
    assert deleted.detail["tokens"] == 4


@pytest.mark.parametrize("operator", ["zero", "delete"])
def test_the_limits_are_those_of_all_orders(lm, model, target, operator):
    steps = 4 if operator == "delete" else 5
    drops = {}

    def drop(gone):
        if gone not in drops:
            drops[gone] = prob(model, keeping(ORDER), operator, target) - prob(model, ~keeping(sorted(gone)), operator, target)
        return drops[gone]

    of = {order: np.mean([drop(frozenset(order[: n + 1])) for n in range(steps)]) for order in permutations(range(5))}
    best, worst = max(of, key=of.get), min(of, key=of.get)
    falling = {order: np.array([-float(order.index(token)) for token in range(5)]) for order in (best, worst)}
    candidates = [falling[best], falling[worst], SCORES]
    found = measured(lm, "naopc", candidates, operator=operator)
    assert [each.value for each in found] == pytest.approx([1, 0, (of[tuple(ORDER)] - of[worst]) / (of[best] - of[worst])], abs=1e-4)
    assert found[0].detail["limits"] == "exact"
    assert 0.01 < found[2].value < 0.99
    wide = measured(lm, "naopc", candidates, operator=operator, exact=1, beam=120)
    assert [each.value for each in wide] == pytest.approx([each.value for each in found], abs=1e-4)
    narrow = measured(lm, "naopc", candidates, operator=operator, exact=1, beam=1)
    assert narrow[0].detail["worst"] >= found[0].detail["worst"] - 1e-6
    assert narrow[0].detail["best"] <= found[0].detail["best"] + 1e-6


def test_rows_that_several_metrics_want_run_once(lm):
    before = lm.token_counter.forward_tokens
    first = measured(lm, "aopc", [SCORES, 2 * SCORES, SCORES - 7])
    spent = lm.token_counter.forward_tokens - before
    assert len({each.value for each in first}) == 1
    assert spent == 5 + 5 * 5, "the clean run and five rows, whoever asks"


def test_only_the_order_counts(lm):
    for name in sorted(name for name, entry in METRICS.items() if not entry.judged and name not in ("soft_ns", "soft_nc")):
        one, other = measured(lm, name, [SCORES, np.exp(SCORES)])
        assert one.value == other.value, name


def test_ties_come_in_an_order_that_the_seed_draws(lm):
    values = {seed: measured(lm, "aopc", [np.zeros(5), np.ones(5)], seed=seed) for seed in range(4)}
    assert all(one.value == other.value for one, other in values.values())
    assert len({one.value for one, _ in values.values()}) > 1
    halves = measured(lm, "aopc", [np.array([1, 1, 0, 0, 0]), np.array([5, 5, 1, 1, 1])])
    assert halves[0].value == halves[1].value


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_target_of_several_tokens_stays_behind_what_is_left(lm, model, operator):
    with torch.no_grad():
        first = int(model(input_ids=torch.tensor([PROMPT])).logits[0, -1, :256].argmax())
        own = (first, int(model(input_ids=torch.tensor([[*PROMPT, first]])).logits[0, -1, :256].argmax()))
    (found,) = measured(lm, "comprehensiveness", [SCORES], question=Question(own), operator=operator)

    def joint(kept):
        if operator == "infill":
            rows = [rewritten(model, kept, draw) for draw in range(4)]
        elif operator == "resample":
            draws = [generator(0, PROMPT, "resample", draw).integers(len(POOL), size=5) for draw in range(4)]
            rows = [[i if k else POOL[d] for i, k, d in zip(PROMPT, kept, drawn, strict=True)] for drawn in draws]
        else:
            rows = [[i for i, k in zip(PROMPT, kept, strict=True) if k or operator == "zero"]]
        probs = []
        for ids in rows:
            embeds = model.get_input_embeddings().weight[torch.tensor([*ids, own[0]])].clone()
            if operator == "zero":
                embeds[:5] *= torch.from_numpy(np.asarray(kept, dtype=np.float32))[:, None]
            with torch.no_grad():
                logits = model(inputs_embeds=embeds[None]).logits[0].double().softmax(-1)
            probs.append(float(logits[-2, own[0]] * logits[-1, own[1]]))
        return np.mean(probs)

    expected = [joint(np.ones(5, dtype=bool)) - joint(~keeping(ORDER[:count])) for count in (1, 1, 1, 1, 3)]
    np.testing.assert_allclose(found.detail["values"], expected, atol=2e-6)
    assert np.abs(expected).max() > 1e-4


def test_a_single_token_can_be_zero_but_not_gone(lm):
    for name in ("comprehensiveness", "aopc", "naopc", "deletion", "insertion", "log_odds"):
        (gone,) = measured(lm, name, [[0.3]], prompt=(7,), operator="delete")
        assert gone.value is None
        assert "one token" in gone.reason
    (zero,) = measured(lm, "aopc", [[0.3]], prompt=(7,))
    assert zero.value is not None
    (same,) = measured(lm, "naopc", [[0.3]], prompt=(7,))
    assert same.value is None
    assert "every order" in same.reason


def test_without_other_prompts_there_is_nothing_to_replace_tokens_by(lm, monkeypatch):
    monkeypatch.setattr("tests.metrics.test_hard_metrics.POOL", ())
    with pytest.raises(OptionError, match="more than one"):
        measured(lm, "aopc", [SCORES], operator="resample")


def test_a_probe_that_was_run_is_remembered(lm):
    entry = METRICS["aopc"]

    def asking():
        posed = yield from resolve_target(lm.tokens, lm.prompt(PROMPT), Question(), None)
        sample = MetricContext(lm, *posed[0])
        first = yield from entry.function(sample, ScoresToEvaluate(SCORES))
        before = lm.token_counter.forward_tokens
        again = yield from entry.function(sample, ScoresToEvaluate(3 * SCORES))
        return first, again, lm.token_counter.forward_tokens - before

    (job,) = schedule(lm, [deduplicate(asking())])
    first, again, spent = job.result
    assert first.detail == again.detail
    assert spent == 0
