"""The searches on made-up flips, against brute force.

Mutants caught: a token dropped although it flipped at every midpoint of the run; a midpoint between skipped; `low` moved
where something flipped; the growing groups stopping one short; a bracket end tried twice for ever.
"""

from itertools import pairwise

import pytest
import torch
from benchmarks.plain import bisected
from hypothesis import given, settings
from hypothesis import strategies as st

from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import Readout
from noiser.lm.quantity import token_logit_fn
from noiser.lm.target import Branch, Objective
from noiser.methods.noiser.evaluations import NoiseEvaluations
from noiser.methods.noiser.noise import Noise
from noiser.methods.noiser.search import exact_minimum, fast_minimum, separate_crossings, separate_minima
from noiser.results.attribution import Target
from noiser.text.prompt import Prompt

LEVELS = 6
UNIT = 2.0**-LEVELS


def evaluations_of(seq: int) -> NoiseEvaluations:
    prompt = Prompt("", (0,) * seq, ("",) * seq, (False,) * seq)
    clean = CleanRun(prompt, torch.zeros(seq, 1), torch.tensor([0.7, 0.3]).log(), ())
    objective = Objective(Target((0,), ("",), 0.7, 0, value=0.7), (Branch(clean, token_logit_fn("prob", (0,), (seq - 1,))),))
    return NoiseEvaluations(clean, objective, Noise([(token,) for token in range(seq)], lambda _: torch.zeros(1, 1)))


def answer(p: float) -> Readout:
    """What the engine would read off rows in which the prediction has probability `p`, and 0.7 in the clean row."""
    return Readout((p,), 0.7, base=p, rival=1 - p, rival_id=1, forward_tokens=1)


def finish(steps, probability):
    """Run a search, answering each request with `probability(token, k)` of the prediction; its result and how much it asked."""
    asked = 0
    try:
        perturbed = next(steps)
        while True:
            asked += len(perturbed)
            perturbed = steps.send([answer(probability(rows.perturbation.start, rows.perturbation.scale)) for rows in perturbed])
    except StopIteration as end:
        return end.value, asked


tables = st.integers(1, 7).flatmap(lambda seq: st.lists(st.lists(st.booleans(), min_size=64, max_size=64), min_size=seq, max_size=seq))


@settings(max_examples=120, deadline=None)
@given(tables, st.randoms(use_true_random=False))
def test_exact_is_the_minimum_of_bisections_whatever_the_flips(flips, random):
    order = random.sample(range(len(flips)), len(flips))

    def probability(token, k):
        return 0.2 if flips[token][round(k / UNIT)] else 0.6

    lows = [round(bisected(lambda k, t=t: flips[t][round(k / UNIT)], LEVELS) / UNIT) for t in range(len(flips))]
    found, asked = finish(exact_minimum(evaluations_of(len(flips)), order, LEVELS, UNIT), probability)
    assert found == min(lows)
    assert asked <= LEVELS * len(flips)
    assert finish(separate_minima(evaluations_of(len(flips)), LEVELS, UNIT), probability)[0] == lows


thresholds = st.lists(st.floats(1e-4, 1.2), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(thresholds, st.sampled_from([0.3, 1.0, 3.0]), st.floats(1e-3, 1.0), st.randoms(use_true_random=False))
def test_fast_is_exact_under_monotone_flips_and_cheaper(flip_at, bend, first, random):
    order = random.sample(range(len(flip_at)), len(flip_at))

    def probability(token, k):
        return 0.5 + 0.2 * (1 - min(2.0, k / flip_at[token]) ** bend) / 2

    levels, unit = 10, 2.0**-10
    lows = [round(bisected(lambda k, t=t: probability(t, k) < 0.5, levels) / unit) for t in range(len(flip_at))]
    found, asked = finish(fast_minimum(evaluations_of(len(flip_at)), order, levels, unit, first), probability)
    assert found == min(lows)
    assert asked <= levels * len(flip_at) + 30
    assert finish(separate_crossings(evaluations_of(len(flip_at)), levels, unit), probability)[0] == lows


@pytest.mark.parametrize("first_to_flip", [0, 20, 39])
def test_fast_takes_little_more_than_the_sweep(first_to_flip):
    """Mutants: the last tokens not tried first (39); the sweep not in the order of the gradients (0); the first group of eight."""
    flip_at = [0.35 + 0.01 * n for n in range(40)]
    flip_at[first_to_flip] = 0.1
    order = [first_to_flip, *(token for token in range(40) if token != first_to_flip)]
    evaluations = evaluations_of(40)
    steps = fast_minimum(evaluations, order, 10, 2.0**-10, 0.2)
    found, _ = finish(steps, lambda token, k: 0.5 + 0.2 * (1 - min(2.0, k / flip_at[token]) ** 1.5) / 2)
    assert found == int(0.1 * 1024)
    tokens = sum(40 - token for token in range(40) for _ in evaluations.scales(token))
    sweep, one = 40 * 41 / 2, 40 - first_to_flip
    assert tokens < sweep + 10 * one + 40, "the sweep, a handful to find the crossing, and what the last tokens cost before"


def test_flips_that_are_seen_not_to_be_monotone_are_counted():
    evaluations = evaluations_of(2)
    finish(
        evaluations.run([(0, 0.2), (0, 0.4), (0, 0.6), (1, 0.2), (1, 0.6)]),
        lambda token, k: 0.2 if k == (0.4 if token == 0 else 0.6) else 0.6,
    )
    assert evaluations.non_monotone() == 1
    assert evaluations.first_to_flip() == 0


def test_a_tie_flips_only_to_a_lower_id():
    assert Readout(base=0.4, rival=0.4, rival_id=2).flips(3)
    assert not Readout(base=0.4, rival=0.4, rival_id=4).flips(3)


def test_groups_grow_so_that_a_sweep_of_many_tokens_takes_few_rounds():
    sizes = []
    steps = fast_minimum(evaluations_of(300), list(range(300)), 10, 2.0**-10, 0.5)
    perturbed = next(steps)
    with pytest.raises(StopIteration):
        while True:
            sizes.append(len(perturbed))
            perturbed = steps.send([answer(0.6)] * len(perturbed))
    assert sum(sizes) < 330
    assert len(sizes) < 20
    assert all(later >= earlier for earlier, later in pairwise(sizes[-5:-1]))


@pytest.mark.parametrize("index", [154, 192, 203])
def test_interpolation_that_creeps_gives_way_to_halving(index):
    """The log-ratio is flat behind the flip: interpolation alone takes some 60 scales to close in."""

    def probability(_, k):
        return 0.5 + 0.2 * (1 - min(2.0, k * 1024 / index) ** 3) / 2

    found, asked = finish(fast_minimum(evaluations_of(1), [0], 10, 2.0**-10, 1.0), probability)
    assert found == index
    assert asked <= 24


def test_the_first_draws_say_which_tokens_may_flip_once_a_guess_was_wrong():
    """Six tokens flip one below the other. Mutants: no screening; a token that was screened taken as tried; its expected flip ignored."""
    flip_at = [0.2 + 0.02 * n for n in range(6)] + [0.9] * 30
    order = [5, *range(6, 36), 4, 3, 2, 1, 0]

    def search(draws):
        prompt = Prompt("", (0,) * 36, ("",) * 36, (False,) * 36)
        clean = CleanRun(prompt, torch.zeros(36, 1), torch.tensor([0.7, 0.3]).log(), ())
        objective = Objective(Target((0,), ("",), 0.7, 0, value=0.7), (Branch(clean, token_logit_fn("prob", (0,), (35,))),))
        evaluations = NoiseEvaluations(clean, objective, Noise([(t,) for t in range(36)], lambda _: torch.zeros(draws, 1)))
        steps, tokens = fast_minimum(evaluations, order, 10, 2.0**-10, 0.5), 0
        try:
            perturbed = next(steps)
            while True:
                tokens += sum(rows.rows * (36 - rows.perturbation.start) for rows in perturbed)
                perturbed = steps.send([answer(probability(rows.perturbation.start, rows.perturbation.scale)) for rows in perturbed])
        except StopIteration as end:
            return end.value, tokens / draws

    def probability(token, k):
        return 0.5 + 0.2 * (1 - min(2.0, k / flip_at[token]) ** 1.5) / 2

    few, many = search(2), search(10)
    assert few[0] == many[0] == int(0.2 * 1024)
    assert many[1] < few[1] - 36, "with two draws there is nothing to screen with, and the tokens are found one after the other"
