"""What the plain algorithms give on a family of transformers, whole forward passes only, and what noiser gives."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

import noiser
from noiser.lm.checkpoint import first_line
from noiser.lm.kv_cache import CleanRun
from noiser.lm.perturbation import AddNoise, Interpolate
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput, Steps, measure
from noiser.methods.noiser.noise import paper_noise
from noiser.registry import METHODS, method
from tests.conftest import byte_tokenizer
from tests.lm.family_models import build

EQUAL = 1e-4
"""The largest difference that counts as rounding, as a share of the largest score."""
LENGTHS = (5, 12, 40, 100, 300)
WINDOWS = {"small": 8, "large": 128}
WHOLE = {"occlusion": 100, "noiser": 40}
"""The longest prompt of which a method explains every token. Of a longer one it explains those that are compared: the rows of the
others, with the same masks, would take minutes for each family."""
PLACES = 16
"""How many tokens of a prompt are compared, or all."""
SAMPLES = 3
"""Draws of noise, at the scale 1."""


@dataclass(frozen=True)
class Outcome:
    """What became of one family under one window."""

    family: str
    window: str
    kind: str
    """`equal`, `refused` by noiser, `not built` (transformers itself fails), or `WRONG`: other numbers, or another exception."""
    detail: str = ""
    layouts: str = ""


def prompts() -> dict[int, tuple[int, ...]]:
    """One prompt of each length, of ids that are not special."""
    rng = np.random.default_rng(7)
    return {length: tuple(rng.integers(5, 255, length).tolist()) for length in LENGTHS}


def _probs(model: Any, rows: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(inputs_embeds=part.clone(), use_cache=False).logits[:, -1].float().softmax(-1) for part in rows.split(8)])


def compared(length: int) -> list[int]:
    """The tokens that are compared."""
    return np.unique(np.linspace(0, length - 1, min(length, PLACES)).astype(int)).tolist()


def plain_scores(model: Any, ids: tuple[int, ...], name: str) -> tuple[list[int], np.ndarray]:
    """The tokens that are compared, and their scores from whole forward passes: occlusion, or Noiser at the scale 1."""
    with torch.no_grad():
        embeds = model.get_input_embeddings()(torch.tensor(ids))
    clean = _probs(model, embeds[None])[0]
    target, scores = int(clean.argmax()), []
    for place in compared(len(ids)):
        rows = embeds[None].clone()
        if name == "occlusion":
            rows[:, place] = 0
        else:
            rows = rows.repeat(SAMPLES, 1, 1)
            rows[:, place] += paper_noise(SAMPLES, embeds.shape[1], 0, ids).to(embeds)
        scores.append(float(clean[target] - _probs(model, rows)[:, target].mean()))
    return compared(len(ids)), np.array(scores)


@contextmanager
def _some_tokens() -> Iterator[None]:
    """Inside the block there is a method that makes the rows of another for the tokens that are compared only."""

    @method("some", family="test", source="these tests")
    def some(
        lm: noiser.LanguageModel, clean: CleanRun, objective: Objective, *, of: Literal["occlusion", "noiser"] = "noiser"
    ) -> Steps[MethodOutput]:
        places, scores = compared(len(clean.prompt)), np.zeros(len(clean.prompt))
        noise = paper_noise(SAMPLES, clean.embeds.shape[1], 0, clean.prompt.input_ids)[:, None]
        zero = torch.zeros(1, 1)
        perturbations = [Interpolate(place, zero) if of == "occlusion" else AddNoise(place, noise, 1.0) for place in places]
        measurements = yield from measure(objective, perturbations)
        scores[places] = [objective.value - measurement.values.mean() for measurement in measurements]
        return MethodOutput(scores)

    try:
        yield
    finally:
        del METHODS["some"]


def _label(name: str, length: int) -> str:
    if length > WHOLE[name]:
        return f"some:of={name}"
    return f"noiser:bound=none+samples={SAMPLES}" if name == "noiser" else name


Case = tuple[str, int]
"""A method and a length."""


def _plain(model: Any, lengths: tuple[int, ...]) -> dict[Case, tuple[list[int], np.ndarray]]:
    return {(name, n): plain_scores(model, prompts()[n], name) for name in WHOLE for n in lengths}


def _explained(model: Any, lengths: tuple[int, ...]) -> Iterator[tuple[str, Case, Any]]:
    """Attributions of noiser: prompts alone, short before long and long before short, and two together in both orders."""
    for order in (lengths, lengths[::-1]):
        lm = noiser.LanguageModel(model, byte_tokenizer())
        for name, n in [(name, n) for n in order for name in WHOLE]:
            yield f"{name}, {n} tokens", (name, n), noiser.attribute(lm, prompts()[n], _label(name, n))
    lm = noiser.LanguageModel(model, byte_tokenizer())
    for pair in ((lengths[0], lengths[-1]), (max(n for n in lengths if n <= WHOLE["occlusion"]), lengths[0])):
        together = noiser.attribute_many(lm, [prompts()[n] for n in pair], _label("occlusion", max(pair)))
        yield from ((f"{n} tokens among {pair}", ("occlusion", n), found) for n, found in zip(pair, together, strict=True))


def _largest_difference(model: Any, plain: dict[Case, tuple[list[int], np.ndarray]], lengths: tuple[int, ...]) -> tuple[float, str, str]:
    """The largest difference as a share of the largest score, where it is, and the layouts that were used."""
    worst, layouts = (0.0, ""), set()
    with _some_tokens():
        for name, case, attribution in _explained(model, lengths):
            places, scores = plain[case]
            worst = max(worst, (float(np.abs(attribution.scores[0][places] - scores).max() / np.abs(scores).max()), name))
            layouts.add(attribution.notes["layout"].split(":")[0])
    return *worst, " and ".join(sorted(layouts))


def compare(family: str, window: str, lengths: tuple[int, ...] = LENGTHS) -> Outcome:
    """Explain prompts of all lengths alone, short before long and long before short, and two together.

    A larger difference than rounding makes is measured again in float64. A wrong mask, position or window is as wrong there. What
    vanishes there is a tie of a router or of a choice of tokens, which the last bits of float32 decide.
    """
    try:
        model = build(family, WINDOWS[window])
        with torch.no_grad():
            model(torch.tensor([prompts()[12]]), use_cache=False)
    except Exception as error:  # noqa: BLE001  (whatever transformers raises on its own model)
        return Outcome(family, window, "not built", first_line(error)[:160])
    try:
        noiser.attribute(noiser.LanguageModel(model, byte_tokenizer()), prompts()[12], "occlusion")
        plain = _plain(model, lengths)
        difference, where, layouts = _largest_difference(model, plain, lengths)
        detail = f"{difference:.0e} ({where})"
        if not difference <= EQUAL:
            model = model.double()
            difference, _, _ = _largest_difference(model, _plain(model, lengths), lengths)
            detail = f"{difference:.0e} in float64, {detail} in float32: a tie"
    except noiser.NoiserError as error:
        return Outcome(family, window, "refused", str(error))
    except Exception as error:  # noqa: BLE001  (any other exception is a fault of noiser)
        return Outcome(family, window, "WRONG", f"it raises {first_line(error)}")
    equal = difference <= EQUAL
    return Outcome(family, window, "equal" if equal else "WRONG", detail if equal else detail.removesuffix(": a tie"), layouts)
