"""Soft-NS and Soft-NC against the formulas evaluated directly, and against what they must be where that is known.

Mutants caught, each run: the root of the Hellinger distance dropped, or the `/ 2` under it (metrics/sample.py); NS and NC swapped
(metrics/soft.py, or `retained` in metrics/soft_ns.py); one seed for every mask, the seed left out of the key, draws that the
scores have a say in, so that methods do not share them (metrics/sample.py); clipping to [0, 1] forgotten under `official`, or
`max(0, ...)` in NS; `matched` by the scores' size instead of their rank, or ties broken by position; `proportional` without its
cap; the released normalisation under `paper` (metrics/protocols.py); the released distance left out (metrics/soft.py); `inside`
ignored (lm/edit.py).
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

import noiser
from noiser.errors import NonFiniteError, OptionError
from noiser.lm.requests import deduplicate, gather
from noiser.lm.scheduler import schedule
from noiser.lm.target import Question, resolve_target
from noiser.metrics import METRICS
from noiser.metrics.sample import MetricContext, ScoresToEvaluate
from noiser.metrics.soft import keep_probabilities, matched, proportional, shares
from noiser.rng import generator
from tests.conftest import byte_tokenizer, tiny
from tests.toys import LinearLM

PROMPT = (7, 200, 31, 150, 31, 99)
SCORES = np.array([0.3, -0.1, 0.05, 0.9, 0.05, 0.2])
PROTOCOLS = ["matched", "proportional", "paper", "official"]
SIGNED = arrays(float, st.integers(1, 12), elements=st.floats(-10, 10, allow_nan=False, width=32))


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


def measured(lm, name, candidates, prompt=PROMPT, question=None, **options):
    """A metric's values of several candidates, in one job on one sample, as `evaluate` runs them."""
    entry = METRICS[name]

    def asking():
        posed = yield from resolve_target(lm.tokens, lm.prompt(prompt), question or Question(), None)
        sample = MetricContext(lm, *posed[0])
        parts = [entry.function(sample, each, **entry.resolve(options)) for each in candidates]
        return (yield from deduplicate(gather(parts)))

    (job,) = schedule(lm, [asking()])
    if job.error:
        raise job.error
    return job.result


def value(lm, name, scores, **options):
    (found,) = measured(lm, name, [ScoresToEvaluate(np.asarray(scores, dtype=float), "none")], **options)
    return found.value


def directly(lm, keep, retained, seed=0):
    """Every mask's d and d0 by plain forward passes over whole rows, distances in float64 throughout."""
    model = lm.model
    with torch.no_grad():
        embeds = model.get_input_embeddings()(torch.tensor([PROMPT]))

        def probs(rows):
            return model(inputs_embeds=rows).logits[0, -1].double().softmax(-1)

        def away(other):
            return (((clean.sqrt() - other.sqrt()) ** 2).sum() / 2).sqrt().item()

        clean = probs(embeds)
        found = []
        for mask, q in enumerate(keep):
            u = torch.from_numpy(generator(seed, PROMPT, "mask", mask).random(embeds.shape[1:], dtype=np.float32))
            below = u < torch.from_numpy(q.astype(np.float32))[:, None]
            found.append(away(probs(embeds * (below if retained else ~below))))
        return np.array(found), away(probs(torch.zeros_like(embeds)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["soft_ns", "soft_nc"])
def test_equals_the_formulas_by_plain_forwards(lm, protocol, name):
    keep = keep_probabilities(protocol, SCORES, "none", 5)
    d, d0 = directly(lm, keep, name == "soft_ns")
    if protocol == "official":
        d, d0 = np.sqrt(2) * d**2, np.sqrt(2) * d0**2
    expected = np.maximum(0, d0 - d) / d0 if name == "soft_ns" else d / d0
    (found,) = measured(lm, name, [ScoresToEvaluate(SCORES, "none")], protocol=protocol, masks=5)
    np.testing.assert_allclose(found.detail["masks"], expected, atol=2e-5)
    assert found.value == pytest.approx(expected.mean(), abs=2e-5)
    assert found.detail["d0"] == pytest.approx(d0, abs=2e-5)
    if (name, protocol) != ("soft_ns", "paper"):  # so little is kept there that nothing survives
        assert 0.02 < expected.mean() < 1.5, "a value at the edge would say nothing"


@pytest.mark.parametrize("scores", [SCORES, SCORES * 3, np.linspace(0, 1, 6)])
def test_the_released_distance_is_the_papers_squared(lm, scores):
    """Per sample and mask: NC_official = NC_paper^2 and NS_official = 1 - (1 - NS_paper)^2, at the same keep-probabilities."""
    share = np.maximum(scores, 0) / np.maximum(scores, 0).sum()
    for name, relation in (("soft_ns", lambda v: 1 - (1 - v) ** 2), ("soft_nc", lambda v: v**2)):
        (paper,) = measured(lm, name, [ScoresToEvaluate(share, "none")], protocol="paper")
        (official,) = measured(lm, name, [ScoresToEvaluate(share, "none")], protocol="official")
        np.testing.assert_allclose(official.detail["masks"], relation(np.array(paper.detail["masks"])), atol=1e-9)
    assert paper.value != pytest.approx(official.value, abs=1e-3), "the root makes a difference"


def test_constant_scores_win_the_released_protocol(lm):
    for name in ("soft_ns", "soft_nc"):
        assert value(lm, name, np.ones(6), protocol="official") == pytest.approx(1, abs=1e-4)
        assert value(lm, name, np.zeros(6), protocol="official") == pytest.approx(0, abs=1e-4)
        assert value(lm, name, [7, -3, 2, 1, 1.5, 9], protocol="official") == pytest.approx(
            value(lm, name, [1, 0, 1, 1, 1, 1], protocol="official"), abs=1e-6
        )


def test_taking_all_or_nothing_has_known_values(lm):
    """What NS keeps NC takes: one score of 1 is the same mask on both sides."""
    one = np.array([0, 0, 0, 1.0, 0, 0])
    with torch.no_grad():
        embeds = lm.model.get_input_embeddings()(torch.tensor([PROMPT]))
        rows = embeds.repeat(4, 1, 1)
        rows[1, [0, 1, 2, 4, 5]] = 0
        rows[2, 3] = 0
        rows[3] = 0
        clean, kept, gone, zero = lm.model(inputs_embeds=rows).logits[:, -1].double().softmax(-1).sqrt()
    d = [((clean - other) ** 2).sum().sqrt() for other in (kept, gone, zero)]
    assert value(lm, "soft_ns", one, protocol="paper") == pytest.approx(max(0, (1 - d[0] / d[2]).item()), abs=1e-5)
    assert value(lm, "soft_nc", one, protocol="paper") == pytest.approx((d[1] / d[2]).item(), abs=1e-5)


@settings(max_examples=200, deadline=None)
@given(SIGNED, st.floats(0.01, 0.99))
def test_the_mean_of_the_keep_probabilities_is_the_budget(scores, share):
    for q in (matched(scores, share), proportional(scores, share)):
        assert q.min() >= 0
        assert q.max() <= 1
        assert q.mean() == pytest.approx(share, abs=1e-12)
        assert (np.diff(q[np.argsort(scores)]) >= -1e-12).all(), "a higher score never keeps less"


@settings(max_examples=200, deadline=None)
@given(SIGNED, st.sampled_from([np.exp, np.cbrt, np.arctan, lambda x: 3 * x - 7, lambda x: x**3]))
def test_only_the_order_counts_under_matched(scores, rising):
    assume((rankdata(rising(scores)) == rankdata(scores)).all())  # a strictly increasing function that rounding left so
    for share in shares(8):
        assert matched(rising(scores), share).tobytes() == matched(scores, share).tobytes()


@settings(max_examples=200, deadline=None)
@given(SIGNED, st.floats(1e-3, 1e3))
def test_a_factor_does_not_count_under_proportional(scores, factor):
    assume(((scores * factor > 0) == (scores > 0)).all())
    for share in shares(8):
        np.testing.assert_allclose(proportional(scores * factor, share), proportional(scores, share), atol=1e-9)


def test_proportional_by_hand():
    np.testing.assert_allclose(proportional(np.array([3.0, 1.0, -5.0, 0.0]), 0.25), [0.75, 0.25, 0, 0])
    np.testing.assert_allclose(proportional(np.array([3.0, 1.0, 1.0, 0.0]), 0.4), [0.96, 0.32, 0.32, 0])
    np.testing.assert_allclose(proportional(np.array([3.0, 1.0, 1.0, 0.0]), 0.5), [1, 0.5, 0.5, 0])
    np.testing.assert_allclose(proportional(np.array([3.0, 1.0, -5.0, 0.0]), 0.75), [1, 1, 0.5, 0.5])
    np.testing.assert_allclose(proportional(np.zeros(3), 0.3), [0.3, 0.3, 0.3])


def test_matched_by_hand():
    np.testing.assert_allclose(matched(np.array([5.0, -1.0, 3.0, 0.0]), 0.5), [0.875, 0.125, 0.625, 0.375])
    np.testing.assert_allclose(matched(np.array([5.0, -1.0, 3.0, 0.0]), 0.25), [0.4375, 0.0625, 0.3125, 0.1875])
    np.testing.assert_allclose(matched(np.array([5.0, -1.0, 3.0, 0.0]), 0.75), [0.9375, 0.5625, 0.8125, 0.6875])
    np.testing.assert_allclose(matched(np.array([2.0, 2.0, 1.0]), 0.5), [2 / 3, 2 / 3, 1 / 6])


def test_scores_reach_the_masks_as_each_protocol_says():
    scores = np.array([0.5, -0.2, 0.1])
    np.testing.assert_allclose(keep_probabilities("paper", scores, "signed_sum", 2), [[5 / 6, 0, 1 / 6]] * 2)
    np.testing.assert_allclose(keep_probabilities("official", scores, "signed_sum", 1), [[1, 0, 0.25]])
    np.testing.assert_allclose(keep_probabilities("official", scores, "abs_l1", 1), [[0.625, 0.25, 0.125]])
    np.testing.assert_allclose(keep_probabilities("official", scores, "none", 1), [[0.5, 0, 0.1]])
    softened = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(keep_probabilities("official", scores, "softmax", 1), [softened])
    np.testing.assert_allclose(keep_probabilities("official", -scores, "signed_sum", 1), [[1, 0, 0.25]], err_msg="every sign turned")
    with pytest.raises(NonFiniteError, match="sum, which is 0"):
        keep_probabilities("official", np.array([1.0, -1.0]), "signed_sum", 1)
    np.testing.assert_allclose(shares(4), [0.125, 0.375, 0.625, 0.875])


def test_uniform_and_constant_are_the_same_where_only_order_counts(lm):
    for protocol in ("matched", "proportional", "paper"):
        for name in ("soft_ns", "soft_nc"):
            uniform, constant = (value(lm, name, scores, protocol=protocol) for scores in (np.full(6, 1 / 6), np.ones(6)))
            assert uniform == constant


def test_all_methods_meet_the_same_masks(lm):
    """Two methods whose scores round to the same keep-probabilities get the same value, whatever they are called."""
    calls = []
    whole = type(lm).run_perturbed
    try:
        type(lm).run_perturbed = lambda self, probes: calls.append(len(probes)) or whole(self, probes)
        first, again, other = measured(
            lm, "soft_nc", [ScoresToEvaluate(SCORES, "none"), ScoresToEvaluate(SCORES * 2, "none"), ScoresToEvaluate(-SCORES, "none")]
        )
    finally:
        type(lm).run_perturbed = whole
    assert first.detail == again.detail
    assert other.detail != first.detail
    assert [count for count in calls if count] == [3], "the zero pass once, equal rows once, all in one batch"


def test_masks_differ_and_the_seed_names_them(lm):
    (found,) = measured(lm, "soft_nc", [ScoresToEvaluate(SCORES, "none")], protocol="paper", masks=8)
    assert len(set(found.detail["masks"])) == 8
    (longer,) = measured(lm, "soft_nc", [ScoresToEvaluate(SCORES, "none")], protocol="paper", masks=12)
    np.testing.assert_allclose(longer.detail["masks"][:8], found.detail["masks"], atol=1e-6)
    assert value(lm, "soft_nc", SCORES, protocol="paper", masks=8, seed=1) != pytest.approx(found.value, abs=1e-6)
    drawn = [generator(0, PROMPT, "mask", mask).random(1000) for mask in range(2)]
    assert abs(np.corrcoef(*drawn)[0, 1]) < 0.1


def test_the_probability_form_is_the_papers_equations(lm):
    """S = 1 - max(0, p - p'), NS = (S - S0) / (1 - S0), NC = max(0, p - p') / (1 - S0)."""
    keep = keep_probabilities("paper", SCORES, "none", 4)
    with torch.no_grad():
        embeds = lm.model.get_input_embeddings()(torch.tensor([PROMPT]))
        clean = lm.model(inputs_embeds=embeds).logits[0, -1].double().softmax(-1)
        target = clean.argmax()
        sufficiency = []
        for mask, q in enumerate(keep):
            u = torch.from_numpy(generator(0, PROMPT, "mask", mask).random(embeds.shape[1:], dtype=np.float32))
            rows = torch.cat([embeds * (u < torch.from_numpy(q)[:, None]), embeds * (u >= torch.from_numpy(q)[:, None])])
            p = lm.model(inputs_embeds=rows.float()).logits[:, -1].double().softmax(-1)[:, target]
            sufficiency.append(1 - (clean[target] - p).clamp(min=0))
        zero = lm.model(inputs_embeds=torch.zeros_like(embeds)).logits[0, -1].double().softmax(-1)[target]
    s0 = 1 - (clean[target] - zero).clamp(min=0).item()
    kept, gone = torch.stack(sufficiency).T.numpy()
    ns, nc = (value(lm, name, SCORES, protocol="paper", distance="probability", masks=4) for name in ("soft_ns", "soft_nc"))
    assert ns == pytest.approx(np.maximum(0, (kept - s0) / (1 - s0)).mean(), abs=1e-5)
    assert nc == pytest.approx(((1 - gone) / (1 - s0)).mean(), abs=1e-5)


def test_a_model_that_ignores_its_input_is_undefined():
    model = LinearLM(6)
    model.slope.zero_()
    (found,) = measured(
        noiser.LanguageModel(model, byte_tokenizer()), "soft_ns", [ScoresToEvaluate(SCORES, "none")], prompt=[0, 1, 1, 0, 1, 0]
    )
    assert found.value is None
    assert "d0 = 0" in found.reason


def test_all_protocols_agree_on_what_is_undefined(lm):
    """A head so flat that the distribution hardly moves: H near 1e-4, its square below 1e-5."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(2e-4)
    flat = noiser.LanguageModel(model, byte_tokenizer())
    share = np.maximum(SCORES, 0) / np.maximum(SCORES, 0).sum()
    (paper,), (official,) = (measured(flat, "soft_nc", [ScoresToEvaluate(share)], protocol=protocol) for protocol in ("paper", "official"))
    assert 1e-5 < paper.detail["d0"] < 1e-3
    assert official.value == pytest.approx(np.mean(np.square(paper.detail["masks"])), rel=1e-6)
    (up,) = measured(lm, "soft_nc", [ScoresToEvaluate(SCORES)], question=Question(_rising(lm)), distance="probability")
    assert up.value is None
    assert "no less probable without any input" in up.reason


def _rising(lm):
    """A token that is more probable after nothing than after the prompt."""
    with torch.no_grad():
        embeds = lm.model.get_input_embeddings()(torch.tensor([PROMPT]))
        clean, zero = lm.model(inputs_embeds=torch.cat([embeds, 0 * embeds])).logits[:, -1, :250].softmax(-1)
    return int((zero - clean).argmax())


def test_scores_of_any_span_of_sizes_keep_the_budget():
    for scores in ([1.0, 1e-323, 1e-310], [5e-324, 5e-324], [1e308, 1e308, 1.0], [1e-300, -1.0, 1e300]):
        for share in shares(8):
            q = proportional(np.array(scores), share)
            assert np.isfinite(q).all()
            assert q.max() <= 1
            assert q.mean() == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(NonFiniteError, match="cannot be evaluated"):
        ScoresToEvaluate(np.array([0.1, wrong]), "none")


def test_options_are_checked():
    for wrong in ({"protocol": "fair"}, {"masks": 0}, {"distance": "l2"}, {"budget": 3}):
        with pytest.raises(OptionError):
            METRICS["soft_ns"].resolve(wrong)
