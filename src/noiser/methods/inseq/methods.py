"""Inseq's methods on our ids: `inseq:<name>` for every name that `inseq.list_feature_attribution_methods()` gives.

Inseq is imported when one of them is asked for, not before. It is given ids, never text, and the model, the tokenizer and
the global random generators are put back after.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from noiser.errors import NoiserError, NonFiniteError, OptionError
from noiser.lm.devices import is_out_of_memory, unify_memory_errors
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.restore import drawing_from, restore_after
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput
from noiser.methods.inseq.host import batch_of, check_options, host_of, inseq_methods, sequence_of, split_options
from noiser.registry import Method
from noiser.rng import generator

PREFIX = "inseq:"
STILL = (
    "attention", "deeplift", "discretized_integrated_gradients", "input_x_gradient", "integrated_gradients", "layer_deeplift",
    "layer_gradient_x_activation", "layer_integrated_gradients", "occlusion", "saliency", "sequential_integrated_gradients",
    "value_zeroing",
)  # fmt: skip
"""Methods that draw nothing at random. The others draw from global generators, and a method unknown here may."""
PICKLED = ("discretized_integrated_gradients", "reagent")
"""Methods that keep what they precompute as a pickle in Inseq's cache, and read back what they find there."""


@dataclass(frozen=True)
class InseqMethod(Method):
    """A method of Inseq. Its options are Inseq's own, free in form, and `seed`, `attributed_fn` and `allow_pickle`."""

    @property
    def options(self) -> dict[str, Any]:
        """What is set unless given; the names of Inseq's own options are known only once it runs."""
        return {} if self.name.removeprefix(PREFIX) in STILL else {"seed": 0}

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options`, with text read as JSON if it is JSON. Inseq refuses unknown names when the method runs."""
        resolved = self.options | {name: _read(value) for name, value in options.items()}
        if "seed" in resolved and "seed" not in self.options:
            raise OptionError(f"{self.name} draws nothing at random, so it has no seed")
        if not isinstance(resolved.get("seed", 0), int) or isinstance(resolved.get("seed"), bool):
            raise OptionError(f"{self.name}: seed wants an int; got {resolved['seed']!r}")
        return resolved


def find_inseq(name: str) -> InseqMethod:
    """The method called `inseq:<name>`; NoiserError where Inseq is missing, OptionError listing its methods where it has no such."""
    wanted, known = name.removeprefix(PREFIX), inseq_methods()
    if wanted not in known:
        raise OptionError(f"Inseq has no method {wanted!r}; it has {', '.join(sorted(known))}")
    return InseqMethod(name=name, family="inseq", source=f"Inseq {version('inseq')}", function=partial(_run, name=wanted))


def inseq_scores(
    lm: LanguageModel, input_ids: Sequence[int], target_id: int, name: str, options: Mapping[str, Any]
) -> tuple[Float[np.ndarray, " seq"], dict[str, Any]]:
    """One score a token by Inseq's method `name`, aggregated as Inseq does by default, and what is to know about them.

    The scores explain `attributed_fn` (the probability, by default) of `target_id` after `input_ids`, whether or not the
    model would predict it. Raises OptionError for options that the method does not have, DeviceMemoryError, and
    NoiserError with Inseq's own words where Inseq fails on this model.
    """
    if name in PICKLED and not options.get("allow_pickle"):
        raise NoiserError(f"Inseq's {name} reads a pickle from its cache, which can run any code: to let it, set allow_pickle=true")
    seed = int(generator(options.get("seed", 0), tuple(input_ids), PREFIX + name).integers(2**32))
    given = {key: value for key, value in options.items() if key not in ("allow_pickle", "seed")}
    with restore_after(lm.model, lm.tokenizer), drawing_from(seed, *lm.devices), unify_memory_errors(), _with_gradients():
        lm.model.register_forward_pre_hook(partial(_count, lm), with_kwargs=True)
        try:
            return _scores(lm, input_ids, target_id, name, given)
        except Exception as error:
            if isinstance(error, NoiserError) or is_out_of_memory(error):
                raise
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise NoiserError(f"Inseq's {name} fails on {type(lm.model).__name__}: {said}") from error


@contextmanager
def _with_gradients() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _count(lm: LanguageModel, _module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A hook that counts what Inseq sends through the model; where gradients are on, Inseq takes one."""
    given = next(each for each in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if each is not None)
    lm.token_counter.forward_tokens += given.shape[0] * given.shape[1]
    lm.token_counter.backward_tokens += given.shape[0] * given.shape[1] * torch.is_grad_enabled()


def _run(lm: LanguageModel, clean: CleanRun, goal: Objective, *, name: str, **options: Any) -> MethodOutput:
    target = goal.target
    if len(target.token_ids) != 1 or target.foil is not None or target.quantity != "prob":
        raise OptionError(f"{PREFIX}{name} explains the probability of one next token: no target of several, foil, span or function")
    return MethodOutput(*inseq_scores(lm, clean.prompt.input_ids, target.token_ids[0], name, options))


def _scores(
    lm: LanguageModel, ids: Sequence[int], target: int, name: str, options: Mapping[str, Any]
) -> tuple[Float[np.ndarray, " seq"], dict[str, Any]]:
    made, asked = split_options(name, options)
    host = host_of(lm, name, made)
    method, attributed = host.attribution_method, host.get_attributed_fn(asked.pop("attributed_fn", None))
    check_options(name, method, asked, _ours(name))
    target_ids = torch.tensor([[target]], device=lm.device)
    step = method.filtered_attribute_step(batch_of(host, ids), target_ids, attributed, attribution_args=asked)
    sequence = sequence_of(step, len(ids), method.is_final_step_method)
    scores = sequence.aggregate().target_attributions[: len(ids), 0].double().numpy()
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"Inseq's {name} gave scores that are NaN or infinite")
    return scores, _notes(name, scores, sequence, step, attributed, method)


def _ours(name: str) -> list[str]:
    """Options of the method that are ours and not Inseq's, or that Inseq takes for every method."""
    return ["attributed_fn", *(["allow_pickle"] if name in PICKLED else []), *(["seed"] if name not in STILL else [])]


def _notes(name: str, scores: np.ndarray, sequence: Any, step: Any, attributed: Any, method: Any) -> dict[str, Any]:
    steps = sequence._aggregator
    ways = [steps] if isinstance(steps, str) else list(steps)
    notes: dict[str, Any] = {
        "inseq": version("inseq"),
        "aggregation": ", ".join([*ways, "divided by the sum of absolute values"]) if ways else "none",
        "attributed": attributed.__name__.removesuffix("_fn"),
        "warnings": [],
    }
    if "deltas" in step.step_scores:
        notes["convergence_delta"] = float(step.step_scores["deltas"])
    if method.is_final_step_method:
        notes["warnings"].append(f"Inseq's {name} does not look at the target: any other gets the same scores.")
    if not scores.any():
        notes["warnings"].append(f"Inseq's {name} gave every token 0 here.")
    return notes


def _read(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            return json.loads(value)
    return value
