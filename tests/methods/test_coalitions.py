"""Samplers of Shapley values on games given as tables: closed forms, the definition by orders, and what the standard errors promise.

Mutants caught, each run: a player's weight by the wrong size in `exact`; the reverse order left out; the complements in another order;
the kernel not divided by the number of draws; the half weight of the middle size left out; the gap not subtracted; draws with
replacement; a pair's leverage not counted (`1 - leverage`), or the share of unread pairs (`unread`) left out of the standard error.
"""

from itertools import permutations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from noiser.methods.coalitions import all_coalitions, allocate, by_leverage, by_permutations, exact

SAMPLERS = {
    "exact": lambda players, rng: exact(players),
    "permutation": lambda players, rng: by_permutations(players, 3, rng),
    "leverage": lambda players, rng: by_leverage(players, 2 * players, rng),
}


def rng(seed=0):
    return np.random.default_rng(seed)


def play(sampler, game, asked=None):
    """Run a sampler on a game, a function of coalitions."""
    rows = next(sampler)
    if asked is not None:
        asked.append(rows)
    try:
        sampler.send(game(rows))
    except StopIteration as end:
        return end.value
    raise AssertionError("it asks twice")


def table_game(players, seed=0, scale=1.0):
    """A game with a random value for every coalition, and no symmetry at all."""
    values = rng(seed).normal(size=2**players) * scale
    return lambda rows: values[rows @ 2 ** np.arange(players)]


def pair_game(players, seed=0):
    """Every player alone, and every two together, have a value of their own. Shapley: half of each pair's value for each of the two."""
    alone = rng(seed).normal(size=players)
    pairs = np.triu(rng(seed + 1).normal(size=(players, players)), 1)
    return (lambda rows: rows @ alone + ((rows @ pairs) * rows).sum(-1) + 5.0), alone + (pairs + pairs.T).sum(-1) / 2


def by_orders(players, game):
    """The definition: the mean gain over all orders in which players can join."""
    gains = np.zeros(players)
    for order in permutations(range(players)):
        rows = np.zeros((players + 1, players), dtype=bool)
        for step, player in enumerate(order):
            rows[step + 1 :, player] = True
        gains[list(order)] += np.diff(game(rows))
    return gains / np.prod(np.arange(1, players + 1))


@pytest.mark.parametrize("players", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_players_and_pairs_of_players_add_is_found_exactly_by_every_sampler(sampler, players):
    game, shapley = pair_game(players)
    found = play(SAMPLERS[sampler](players, rng()), game)
    np.testing.assert_allclose(found.values, shapley, atol=1e-12)
    assert found.stderr is None or found.stderr.max() < 1e-12
    assert found.empty == pytest.approx(5.0)


@pytest.mark.parametrize("players", [1, 2, 3, 4, 6])
def test_exact_is_the_mean_gain_over_all_orders(players):
    game = table_game(players)
    np.testing.assert_allclose(play(exact(players), game).values, by_orders(players, game), atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("players", [2, 5, 8])
def test_the_values_add_up_to_the_gap_whatever_was_drawn(sampler, players):
    game = table_game(players)
    found = play(SAMPLERS[sampler](players, rng()), game)
    empty, total = game(np.array([[False] * players, [True] * players]))
    assert found.values.sum() == pytest.approx(total - empty, abs=1e-12)
    assert (found.empty, found.total) == (empty, total)


@pytest.mark.parametrize("players", [2, 3, 4, 5, 6, 7])
def test_with_every_coalition_the_regression_is_exact_and_has_no_error(players):
    game = table_game(players)
    found = play(by_leverage(players, 10**6, rng()), game)
    np.testing.assert_allclose(found.values, play(exact(players), game).values, atol=1e-12)
    assert found.coalitions == 2**players
    assert found.stderr is None


def test_a_player_that_changes_nothing_gets_exactly_0_from_orders_and_0_within_its_error_from_the_regression():
    inner = table_game(8)
    blind = lambda rows: inner(np.where(np.arange(8) == 3, False, rows))  # noqa: E731
    for found in (play(exact(8), blind), play(by_permutations(8, 5, rng()), blind)):
        assert found.values[3] == 0
        assert found.stderr is None or (found.stderr[3] == 0 < found.stderr[2])
    found = play(by_leverage(8, 60, rng()), blind)
    assert 0 < abs(found.values[3]) < 3 * found.stderr[3]


def test_players_that_can_change_places_get_the_same():
    game = lambda rows: (rows[:, :3].sum(-1) == 2) * (1.0 + rows[:, 3])  # noqa: E731
    found = play(exact(4), game).values
    assert found[0] == pytest.approx(found[1], abs=1e-14) == pytest.approx(found[2], abs=1e-14)
    assert abs(found[3] - found[0]) > 0.01


@pytest.mark.parametrize(("sampler", "pairs"), [(by_permutations, 6), (by_leverage, 20), (by_leverage, 45)])
def test_draws_are_right_on_average_and_the_standard_error_says_by_how_much_they_differ(sampler, pairs):
    """9 players. A game without any structure but a strong linear part, as a language model's."""
    game = table_game(9, scale=0.3)
    estimates = [play(sampler(9, pairs, rng(seed)), game) for seed in range(400)]
    values, errors = np.stack([e.values for e in estimates]), np.stack([e.stderr for e in estimates])
    truth, spread = play(exact(9), game).values, values.std(0)
    assert np.abs(values.mean(0) - truth).max() < 0.3 * spread.max(), "no bias that matters"
    ratio = (errors**2).mean(0) ** 0.5 / spread
    assert 0.9 < ratio.min() < ratio.max() < 1.4, "with few pairs it is rather too large than too small"
    covered = (np.abs(values - truth) < t.ppf(0.975, estimates[0].dof) * errors).mean()
    print(f"{sampler.__name__}: {covered:.3f} covered, bias {np.abs(values.mean(0) - truth).max() / spread.max():.2f} of the spread")
    assert 0.91 < covered < 0.985


def test_the_regression_needs_less_than_orders():
    game = table_game(10, scale=0.3)
    truth = play(exact(10), game).values
    error = {
        name: np.mean([(play(sampler(seed), game).values - truth) ** 2 for seed in range(60)])
        for name, sampler in {
            "orders": lambda seed: by_permutations(10, 5, rng(seed)),
            "regression": lambda seed: by_leverage(10, 45, rng(seed)),
        }.items()
    }
    assert error["regression"] < 0.6 * error["orders"]


@pytest.mark.parametrize("players", [7, 8, 40])
def test_what_the_regression_reads(players):
    asked = []
    play(by_leverage(players, 4 * players, rng()), lambda rows: rows @ np.ones(players), asked)
    (rows,) = asked
    ends, (smaller, larger) = rows[:2], np.split(rows[2:], 2)
    assert ends.tolist() == [[False] * players, [True] * players]
    assert (smaller == ~larger).all(), "pairs are complements"
    assert len({row.tobytes() for row in rows}) == len(rows) == 2 + 8 * players, "no coalition twice"
    counts = np.bincount(smaller.sum(-1), minlength=players // 2 + 1)[1:]
    free = [count for size, count in enumerate(counts.tolist(), 1) if count < comb(players, size) and 2 * size < players]
    assert max(free) - min(free) <= 1, "the same number of every size that is not taken whole"
    if players == 40:
        assert abs(counts[-1] - free[0] / 2) <= 1, "half as many where a coalition and its complement have one size"


@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from([0.5, 1.0])), max_size=8), st.integers(0, 400))
def test_allocation(parts, total):
    counts, shares = [count for count, _ in parts], [share for _, share in parts]
    found = allocate(counts, shares, total)
    assert sum(found) == min(total, sum(counts))
    assert all(0 <= number <= count for number, count in zip(found, counts, strict=True))
    rates = [number / share for number, share, count in zip(found, shares, counts, strict=True) if number < count]
    assert not rates or max(rates) - min(rates) <= 2, "in proportion, to a whole number"


def test_all_coalitions_are_counted_in_binary():
    assert all_coalitions(2).tolist() == [[False, False], [True, False], [False, True], [True, True]]
