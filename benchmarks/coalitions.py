"""How far samplers are from the truth, on short prompts whose every set of tokens is run: python -m benchmarks.coalitions [--store FILE].

Prints three tables: Shapley values by their samplers, LIME with and without pairs (and what a token that the model never sees gets),
and interactions by shapiq's estimators. Errors are root mean squares over tokens or pairs and over seeds, as shares of the largest
true size. The model runs once; the values of all sets are kept in FILE.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import noiser
from noiser.evaluation.sanity import PROMPTS
from noiser.evaluation.sanity_models import ignoring
from noiser.lm.measure import measure
from noiser.lm.model import LanguageModel
from noiser.lm.requests import Steps
from noiser.lm.scheduler import schedule
from noiser.lm.target import Question, resolve_target
from noiser.methods.base import keep_units
from noiser.methods.coalitions import Sampling, all_coalitions, by_leverage, by_permutations, exact, paired_coalitions
from noiser.methods.lime import ridge
from noiser.text.units import units

LONGER = ("The Eiffel Tower is located in the city of", "The mother tongue of the French writer Victor Hugo is")
SEEDS = 60
Game = Callable[[np.ndarray], np.ndarray]


def values_of_all_sets(lm: LanguageModel, prompt: Any) -> np.ndarray:
    """The probability of the model's own next token for every set of tokens, counted in binary."""
    tokens = units(lm.prompt(prompt), "token")

    def steps() -> Steps[np.ndarray]:
        ((_, objective),) = yield from resolve_target(lm.tokens, lm.prompt(prompt), Question(), None)
        (found,) = yield from measure(objective, [keep_units(tokens, all_coalitions(len(tokens.texts)), None)])
        return found.values

    (job,) = schedule(lm, [steps()])
    assert job.result is not None, job.error
    return job.result


def tables(store: Path | None) -> dict[str, np.ndarray]:
    """The values of all sets of each prompt; `blind POSITION PROMPT` for models that never see one position."""
    if store is not None and store.exists():
        return dict(np.load(store))
    lm = noiser.load()
    found = {prompt: values_of_all_sets(lm, prompt) for prompt in LONGER}
    for prompt in PROMPTS:
        ids = lm.prompt(prompt).input_ids
        place = len(ids) // 2
        seen = [*ids[:place], lm.prompt(PROMPTS[0]).input_ids[0], *ids[place:]]
        found[f"blind {place} {prompt}"] = values_of_all_sets(ignoring(lm, place), seen)
    if store is not None:
        np.savez(store, **found)  # pyright: ignore[reportArgumentType]  (names are its keyword arguments)
    return found


def play(sampling: Sampling, values: np.ndarray) -> np.ndarray:
    """The Shapley values of one draw."""
    rows = next(sampling)
    try:
        sampling.send(game(values)(rows))
    except StopIteration as end:
        return end.value.values
    raise AssertionError


def game(values: np.ndarray) -> Game:
    """From sets to their values."""
    return lambda rows: values[np.atleast_2d(rows).astype(int) @ 2 ** np.arange(players(values))]


def players(values: np.ndarray) -> int:
    """The number of tokens."""
    return len(values).bit_length() - 1


def error(found: Sequence[np.ndarray], truth: np.ndarray) -> str:
    """Of several draws, as a share of the largest true size."""
    return f"{np.sqrt(np.mean((np.stack(found) - truth) ** 2)) / np.abs(truth).max():.3f}"


def shapley_rows(values: np.ndarray) -> None:
    """Both samplers, by the number of sets for each token."""
    count = players(values)
    truth = play(exact(count), values)
    for each in (8, 12, 20, 40):
        pairs = (each * count - 2) // 2
        orders = [play(by_permutations(count, pairs // (count - 1), np.random.default_rng(seed)), values) for seed in range(SEEDS)]
        fits = [play(by_leverage(count, pairs, np.random.default_rng(seed)), values) for seed in range(SEEDS)]
        print(f"| {each * count} | {error(orders, truth)} | {error(fits, truth)} |")


def lime(values: np.ndarray, samples: int, pairs: bool, width: float, seed: int) -> np.ndarray:
    """LIME's coefficients, as the method draws them."""
    rng, count = np.random.default_rng(seed), players(values)
    present = paired_coalitions(count, samples // 2, rng) if pairs else rng.random((samples, count)) < 0.5
    present[0] = True
    return ridge(present, game(values)(present), width, 0.01)[0]


def lime_rows(found: dict[str, np.ndarray]) -> None:
    """The error against LIME on all sets, and the share of the largest coefficient that an unseen token gets."""
    blind = [(int(name.split()[1]), values) for name, values in found.items() if name.startswith("blind")]
    for width in (0.25, 1.0):
        for samples in (200, 400, 800):
            for pairs in (False, True):
                errors = []
                for prompt in LONGER:
                    everything = all_coalitions(players(found[prompt]))
                    truth = ridge(everything, found[prompt], width, 0.01)[0]
                    errors.append(error([lime(found[prompt], samples, pairs, width, seed) for seed in range(SEEDS)], truth))
                shares = [[_share(lime(values, samples, pairs, width, seed), place) for place, values in blind] for seed in range(20)]
                worst = np.max(shares, axis=1)
                passed = np.mean(worst <= 0.05)
                print(f"| {width:g} | {samples} | {str(pairs).lower()} | {' | '.join(errors)} | {worst.mean():.3f} | {passed:.0%} |")


def _share(coefficients: np.ndarray, place: int) -> float:
    return float(abs(coefficients[place]) / np.abs(coefficients).max())


def interaction_rows(values: np.ndarray) -> None:
    """shapiq's estimators of the interactions, and how many of the five strongest pairs they find."""
    from shapiq import ExactComputer
    from shapiq.approximator import SHAPIQ, SVARMIQ, KernelSHAPIQ, PermutationSamplingSII

    count = players(values)
    upper = np.triu_indices(count, 1)
    truth = ExactComputer(game(values), count)("SII", 2).get_n_order_values(2)[upper]
    strongest = set(np.argsort(-np.abs(truth))[:5].tolist())
    estimators: dict[str, Callable[[int], Any]] = {
        "SHAP-IQ in pairs": lambda seed: SHAPIQ(count, 2, "SII", pairing_trick=True, random_state=seed),
        "SVARM-IQ": lambda seed: SVARMIQ(count, 2, "SII", random_state=seed),
        "KernelSHAP-IQ": lambda seed: KernelSHAPIQ(count, 2, "SII", random_state=seed),
        "permutations": lambda seed: PermutationSamplingSII(count, 2, "SII", random_state=seed),
    }
    for name, make in estimators.items():
        for samples in (200, 400):
            drawn = [make(seed).approximate(samples, game(values)).get_n_order_values(2)[upper] for seed in range(10)]
            hits = np.mean([len(strongest & set(np.argsort(-np.abs(each))[:5].tolist())) for each in drawn])
            print(f"| {name} | {samples} | {error(drawn, truth)} | {hits:.1f} |")


def main() -> None:
    """All three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path)
    found = tables(parser.parse_args().store)
    for prompt in LONGER:
        print(f"\n{prompt}: Shapley values\n| sets run | permutation | leverage |\n|---|---|---|")
        shapley_rows(found[prompt])
    print("\nLIME\n| width | samples | pairs | error, first | second | unseen token, worst | passes |\n|---|---|---|---|---|---|---|")
    lime_rows(found)
    for prompt in LONGER:
        print(f"\n{prompt}: interactions\n| estimator | sets run | error | of the five strongest |\n|---|---|---|---|")
        interaction_rows(found[prompt])


if __name__ == "__main__":
    main()
