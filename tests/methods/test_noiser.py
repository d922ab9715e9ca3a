"""Noiser against closed forms, the released code's own numbers, and the plain algorithm.

Mutants caught: the clean row counted into the mean; `k` instead of the last midpoint in the official variant; noise drawn
anew for each token; `norm` applied as a bound; a score divided where it should not be; a flip tested against the target
instead of the prediction; the first of two equal logits not being the prediction.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.plain import bisected, embed, perturbed, released_loop

import noiser
from noiser.errors import NonFiniteError, OptionError
from noiser.methods.noiser.noise import expected_norm, official_noise, paper_noise
from tests.conftest import tiny
from tests.toys import DIM, BrokenLM, ToyLM

VECTORS = json.loads((Path(__file__).parents[1] / "official_noiser.json").read_text())["vectors"]
NORMS = {"None": None, "2": "l2", "inf": "linf"}
WEIGHT = [0.1, 1.0, 0.0, 0.4]
IDS = (0, 1, 0, 1)
PROMPT = (7, 200, 31, 150, 31, 99)


def toy(tokenizer, *arguments, kind=ToyLM, **options):
    return noiser.LanguageModel(kind(*arguments, **options), tokenizer)


PLAIN = [vector for vector in VECTORS if vector["norm"] == "None"]
DAILY = [pytest.param(vector, marks=() if vector in PLAIN[:2] else pytest.mark.slow) for vector in VECTORS]


def test_some_official_vectors_run_daily():
    assert 2 <= sum(not param.marks for param in DAILY) < len(DAILY)


@pytest.mark.parametrize("vector", DAILY, ids=lambda v: f"{v['prompt'][:12]}-{v['norm']}")
def test_official_gives_the_released_codes_numbers_on_the_real_model(smol, vector):
    """The drops in probability agree to 4e-6, which is float32 rounding.

    The released code divides them by their signed sum. For one vector that sum is so small that the division turns 1e-6 into 2.4e-4 of the
    largest score, so the drops are compared before it. Noise scaled by 1.002 (a mutant) changes them by more than 1e-4.
    """
    ours = noiser.attribute(smol, vector["prompt"], variant="official", norm=NORMS[vector["norm"]], search="exact")
    assert list(ours.prompt.input_ids) == vector["input_ids"]
    assert ours.notes["k"] == vector["k_min"]
    assert ours.target.token_ids[0] == vector["prediction_id"]
    difference = np.abs(ours.scores[0] - np.array(vector["scores"])).max() * abs(ours.notes["sum"])
    print(f"largest difference {difference:.1e} in probability, the signed sum is {ours.notes['sum']:.3g}")
    assert difference < 4e-6


@pytest.mark.parametrize("search", ["fast", "exact"])
@pytest.mark.parametrize("norm", [None, "l2"])
def test_official_is_the_released_loop_on_a_tiny_model(tokenizer, search, norm):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    ours = noiser.attribute(lm, PROMPT, variant="official", norm=norm, search=search)
    plain = released_loop(lm.model, PROMPT, official_noise(10, 64, norm))
    assert ours.notes["k"] == plain.k
    np.testing.assert_allclose(ours.scores[0], plain.scores, atol=1e-5 / abs(ours.notes["sum"]))
    assert ours.scores.sum() == pytest.approx(1)


def test_official_searches_exactly_unless_asked_otherwise(smol):
    """Flips are not monotone on this prompt: `fast` finds another k. Mutant: `auto` taken as fast in the official variant."""
    ours, asked = (noiser.attribute(smol, "Berlin is located in the country of", variant="official", search=s) for s in ("auto", "exact"))
    assert ours.notes["k"] == asked.notes["k"] == pytest.approx(0.0986, abs=5e-5)
    assert "assumption" not in ours.notes and "assumed" not in str(ours)


def test_fast_says_what_it_assumes(tokenizer):
    """Mutants: the note left out; given to a fixed scale."""
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    fast = noiser.attribute(lm, PROMPT)
    assert fast.notes["assumption"] in str(fast)
    for options in ({"search": "exact"}, {"bound": "rms"}):
        assert "assumption" not in noiser.attribute(lm, PROMPT, **options).notes


@pytest.mark.parametrize("search", ["fast", "exact"])
@pytest.mark.parametrize("seed", [0, 1])
def test_noiser_equals_the_closed_form_of_a_radial_model(tokenizer, search, seed):
    ours = noiser.attribute(toy(tokenizer, WEIGHT), IDS, samples=1, search=search, seed=seed)
    weight = torch.tensor(WEIGHT)
    noise = paper_noise(1, DIM, seed, IDS)
    assert ours.notes["k"] == pytest.approx(1 / (weight.max() * noise.norm()).item(), abs=2**-10)
    expected = torch.sigmoid(torch.tensor(1.0)) - torch.sigmoid(1 - weight / weight.max())
    np.testing.assert_allclose(ours.scores[0], expected, atol=2e-3)
    assert ours.notes["first_to_flip"] == 1
    assert ours.notes["k_status"] == "found"


def test_a_token_that_the_model_ignores_gets_exactly_zero(tokenizer):
    assert noiser.attribute(toy(tokenizer, WEIGHT), IDS).scores[0, 2] == 0
    windowed = noiser.LanguageModel(tiny("mistral"), tokenizer)  # two layers that look 3 back: nothing before the last 7 tokens counts
    far = noiser.attribute(windowed, (7, 200, 31, 150, 31, 99, 12, 250, 77, 5))
    assert far.notes["layout"] == "packed"
    assert (far.scores[0, :3] == 0).all()
    assert (far.scores[0, 4:] != 0).all()


@pytest.mark.parametrize("bound", ["k_max", "k_max_per_token"])
@pytest.mark.parametrize("search", ["fast", "exact"])
def test_the_larger_bounds_are_what_separate_bisections_give(tokenizer, bound, search):
    lm = noiser.LanguageModel(tiny("llama"), tokenizer)
    ours = noiser.attribute(lm, PROMPT, bound=bound, search=search)
    noise, embeds = paper_noise(10, 64, 0, PROMPT), embed(lm.model, PROMPT)
    clean = lm.model(inputs_embeds=embeds).logits[0, -1].softmax(-1)

    def mean(token, k):
        return lm.model(inputs_embeds=perturbed(embeds, token, k, noise)).logits[:, -1].softmax(-1).mean(0)

    with torch.no_grad():
        scales = [bisected(lambda k, t=token: bool(mean(t, k).argmax() != clean.argmax()), 10) for token in range(len(PROMPT))]
        if bound == "k_max":
            scales = [max(scales)] * len(PROMPT)
        scores = [float(clean.max() - mean(token, k)[clean.argmax()]) for token, k in enumerate(scales)]
    assert ours.notes["k_status"] == "not_reached", "half of these tokens flip nowhere"
    assert ours.notes["warnings"][0].startswith("Some token flips the prediction nowhere")
    assert len(set(scales)) == 1 if bound == "k_max" else len(set(scales)) > 2
    assert ours.notes["k"] == (scales[0] if bound == "k_max" else scales)
    np.testing.assert_allclose(ours.scores[0], scores, atol=1e-5)


@pytest.mark.parametrize("bound", ["l1", "l2", "l3", "l4", "linf"])
def test_norm_bounds_are_one_over_the_expected_norm(tokenizer, bound):
    drawn = torch.randn(2000, 576, generator=torch.Generator().manual_seed(0))
    order = {"l1": 1, "l2": 2, "l3": 3, "l4": 4, "linf": torch.inf}[bound]
    measured = torch.linalg.vector_norm(drawn, order, dim=1).mean().item()
    assert expected_norm(bound, 576) == pytest.approx(measured, rel=0.12 if bound == "linf" else 0.02)
    ours = noiser.attribute(toy(tokenizer, WEIGHT), IDS, bound=bound)
    assert ours.notes["k"] == 1 / expected_norm(bound, DIM)
    assert ours.notes["k_status"] == "fixed"


def test_fixed_bounds_take_no_search(tokenizer):
    lm = toy(tokenizer, WEIGHT)
    assert noiser.attribute(lm, IDS, bound="none").notes["k"] == 1
    first, again, other = (noiser.attribute(lm, IDS, bound="random", seed=seed).notes["k"] for seed in (0, 0, 1))
    assert first == again != other
    assert 0 < first < 1
    cost = noiser.attribute(lm, IDS, bound="none").cost
    assert cost.forward_tokens == len(IDS) + len(IDS) * 11 * len(IDS), "the clean run, then 10 noise rows and the clean one a token"


@pytest.mark.parametrize("search", ["fast", "exact"])
def test_the_ends_of_the_bracket_are_reported(tokenizer, search):
    floor = noiser.attribute(toy(tokenizer, [1.0, 5000.0]), (0, 1), search=search)
    assert (floor.notes["k"], floor.notes["k_status"]) == (0, "at_floor")
    assert (floor.scores == 0).all()
    assert "raise steps" in floor.notes["warnings"][0]
    calm = toy(tokenizer, [0.01, 0.02])
    fixed = noiser.attribute(calm, (0, 1), search=search)
    assert (fixed.notes["k"], fixed.notes["k_status"]) == (1023 / 1024, "not_reached")
    wide = noiser.attribute(calm, (0, 1), search=search, bracket="expand", samples=1)
    threshold = 1 / (0.02 * paper_noise(1, DIM, 0, (0, 1)).norm().item())
    assert wide.notes["k_status"] == "found"
    assert threshold - 16 / 1024 <= wide.notes["k"] <= threshold, "a bracket of [0, 16] has cells of 16 / 1024"
    never = noiser.attribute(toy(tokenizer, [0.0, 0.0]), (0, 1), search=search, bracket="expand")
    assert never.notes["k_status"] == "not_reached"
    assert never.notes["k"] == 1023


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("search", ["fast", "exact"])
def test_few_steps(tokenizer, steps, variant, search):
    noise = official_noise(10, DIM, None) if variant == "official" else paper_noise(10, DIM, 0, IDS)
    model = ToyLM(WEIGHT)
    ours = noiser.attribute(noiser.LanguageModel(model, tokenizer), IDS, steps=steps, variant=variant, search=search)
    if variant == "official":
        assert ours.notes["k"] == released_loop(model, IDS, noise, steps).k
    else:
        embeds = embed(model, IDS)
        kept = [
            bisected(lambda k, t=t: bool(torch.sigmoid(model.answer(perturbed(embeds, t, k, noise))[:, 0]).mean() < 0.5), steps)
            for t in range(4)
        ]
        assert ours.notes["k"] == min(kept)


def test_ties_go_to_the_lowest_id_and_are_flagged(tokenizer):
    tied = noiser.attribute(toy(tokenizer, WEIGHT, 0.0), IDS)
    assert tied.notes["tie"]
    assert tied.target.token_ids == (0,)
    assert "equally probable" in tied.notes["warnings"][0]
    assert not noiser.attribute(toy(tokenizer, WEIGHT), IDS).notes["tie"]


@pytest.mark.parametrize("when_clean", [True, False])
def test_nan_is_never_scored(tokenizer, when_clean):
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        noiser.attribute(toy(tokenizer, WEIGHT, kind=BrokenLM, when_clean=when_clean), IDS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_with_single_in_rank(tokenizer, dtype):
    single = noiser.attribute(noiser.LanguageModel(tiny("llama"), tokenizer), PROMPT)
    half = noiser.attribute(noiser.LanguageModel(tiny("llama").to(dtype), tokenizer), PROMPT)
    assert half.notes["k"] == pytest.approx(single.notes["k"], rel=0.15)
    assert np.corrcoef(single.scores[0], half.scores[0])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sample": 3}, "noiser has no option 'sample'; it has samples, steps, bound, bracket, search, variant, norm, unit, scale, pairs"),
        ({"samples": 0}, "noiser: samples must be from 1 to 10000, or must be one of auto; got 0"),
        ({"samples": "ten"}, "noiser: samples wants int, or must be one of auto; got 'ten'"),
        ({"steps": True}, "noiser: steps wants int; got True"),
        ({"bound": "k_mean"}, "noiser: bound must be one of k_min, k_max"),
        ({"norm": "l2"}, "in the paper a norm is a bound: bound=l2"),
        ({"variant": "official", "unit": "word"}, "perturbs single tokens; got unit=word"),
        ({"variant": "official", "bound": "none"}, "knows only bound=k_min; got bound=none"),
        ({"variant": "official", "bracket": "expand"}, "searches \\[0, 1\\] only"),
        ({"bound": "l2", "bracket": "expand"}, "widens a search, and bound=l2 has none"),
        ({"variant": "official", "pairs": True}, "released code, which has no pairs"),
        ({"variant": "official", "samples": "auto"}, "released code, which has no samples=auto"),
        ({"scale": 2.0}, "in bound=rms only; got bound=k_min"),
        ({"bound": "replace", "scale": 2.0}, "in bound=rms only; got bound=replace"),
        ({"samples": 5, "pairs": True}, "samples must be even; got 5"),
        ({"samples": "auto"}, "samples=auto needs a bound without a search, .* not bound=k_min"),
        ({"samples": "auto", "bound": "rms", "pairs": True, "max_samples": 9}, "max_samples must be even; got 9"),
        ({"bound": "rms", "tolerance": 0.2}, "say when samples=auto stops; got samples=10"),
        ({"bound": "rms", "max_samples": 20}, "say when samples=auto stops; got samples=10"),
    ],
)
def test_options_that_mean_nothing_are_refused(tokenizer, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        noiser.attribute(toy(tokenizer, WEIGHT), IDS, **options)
