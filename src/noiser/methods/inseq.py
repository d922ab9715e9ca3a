"""Inseq's methods on our ids: `inseq:<name>` for every name that `inseq.list_feature_attribution_methods()` gives.

Inseq is imported when one of them is asked for, not before. It is given ids, never text, and the model, the tokenizer and
the global random generators are put back after.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from noiser.errors import NoiserError, NonFiniteError, OptionError
from noiser.lm.as_found import as_found, drawing_from
from noiser.lm.memory import memory_told_apart
from noiser.lm.prefix import Clean
from noiser.lm.runner import LanguageModel
from noiser.methods.steps import Scored
from noiser.registry import Method
from noiser.seeding import generator
from noiser.types import Target

PREFIX = "inseq:"
MISSING = "Inseq is not installed: pip install 'noiser[inseq]', or pip install inseq"
DRAW = ("gradient_shap", "lime", "reagent")
"""Methods of Inseq that draw at random, always from global generators."""
PICKLED = ("discretized_integrated_gradients", "reagent")
"""Methods that keep what they precompute as a pickle in Inseq's cache, and read back what they find there."""
CONSTRUCTED = {"lime": ("mask_prob",), "layer": ("target_layer",)}
"""Options that Inseq takes when a method is made but does not name in its signature."""
OURS = ("allow_pickle", "attributed_fn", "seed")


@dataclass(frozen=True)
class InseqMethod(Method):
    """A method of Inseq. Its options are Inseq's own, free in form, and `seed`, `attributed_fn` and `allow_pickle`."""

    @property
    def options(self) -> dict[str, Any]:
        """What is set unless given; the names of Inseq's own options are known only once it runs."""
        return {"seed": 0 if self.name.removeprefix(PREFIX) in DRAW else None}

    def resolve(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given`, text read as JSON where it is JSON; Inseq refuses unknown names when the method runs."""
        resolved = self.options | {name: _read(value) for name, value in given.items()}
        seed = resolved["seed"]
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise OptionError(f"{self.name}: seed wants an int; got {seed!r}")
        return resolved


def find_inseq(name: str) -> InseqMethod:
    """The method called `inseq:<name>`; NoiserError where Inseq is missing, OptionError listing its methods where it has no such."""
    wanted, known = name.removeprefix(PREFIX), _methods()
    if wanted not in known:
        raise OptionError(f"Inseq has no method {wanted!r}; it has {', '.join(sorted(known))}")
    return InseqMethod(name, "inseq", f"Inseq {version('inseq')}", partial(_run, name=wanted))


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
    seed = int(generator(options.get("seed") or 0, tuple(input_ids), PREFIX + name).integers(2**32))
    with as_found(lm.model, lm.tokenizer), drawing_from(seed, lm.device), memory_told_apart():
        with torch.inference_mode(False), torch.enable_grad():
            try:
                return _scores(lm, input_ids, target_id, name, {key: v for key, v in options.items() if key not in ("allow_pickle", "seed")})
            except (NoiserError, MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())
                raise NoiserError(f"Inseq's {name} fails on {type(lm.model).__name__}: {said}") from error


def _run(lm: LanguageModel, clean: Clean, target: Target, *, name: str, **options: Any) -> Scored:
    return Scored(*inseq_scores(lm, clean.prompt.input_ids, target.token_ids[0], name, options))


def _scores(
    lm: LanguageModel, ids: Sequence[int], target: int, name: str, options: Mapping[str, Any]
) -> tuple[Float[np.ndarray, " seq"], dict[str, Any]]:
    made, asked = _split(name, options)
    host = _host(lm, name, made)
    method, attributed = host.attribution_method, host.get_attributed_fn(asked.pop("attributed_fn", None))
    _check(name, method, asked, made)
    step = method.filtered_attribute_step(
        _batch(host, ids), torch.tensor([[target]], device=lm.device), attributed, attribution_args=asked
    )
    sequence = _sequence(step, len(ids), method.is_final_step_method)
    scores = sequence.aggregate().target_attributions[: len(ids), 0].double().numpy()
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"Inseq's {name} gave scores that are NaN or infinite")
    return scores, _notes(name, scores, sequence, step, attributed, method)


def _host(lm: LanguageModel, name: str, made: Mapping[str, Any]) -> Any:
    """Inseq's wrapper around our model, with the method on it. Methods that read attention weights need eager attention."""
    models = import_module("inseq.models")
    if name == "attention" and lm.model.config._attn_implementation != "eager":
        lm.model.set_attn_implementation("eager")
    return models.HuggingfaceModel.load(lm.model, name, lm.tokenizer, str(lm.device), {}, {}, **made)


def _batch(host: Any, ids: Sequence[int]) -> Any:
    """Our ids as Inseq's batch of one. Its baseline is its own: the unknown token everywhere but at end-of-sequence tokens."""
    data = import_module("inseq.data")
    row = torch.tensor([list(ids)], device=host.device)
    baseline = torch.where(row == host.eos_token_id, row, torch.full_like(row, host.tokenizer.unk_token_id))
    tokens = [host.tokenizer.convert_ids_to_tokens(list(ids))]
    encoding = data.BatchEncoding(row, torch.ones_like(row), tokens, baseline)
    return host.formatter.prepare_inputs_for_attribution(host, encoding)


def _sequence(step: Any, seq: int, final_step: bool) -> Any:
    """The step's raw scores [seq, 1, ...] as the sequence object that knows how Inseq aggregates them.

    Built here and not by Inseq, which would drop every token of the prompt that reads like its pad token.
    """
    tokens = import_module("inseq.utils.typing")
    raw = step.target_attributions.detach().float().cpu()
    raw = raw[0, :seq, seq - 1][:, None] if final_step else raw[0, :, None]
    raw = torch.cat([raw, torch.full_like(raw[:1], torch.nan)])  # the target does not explain itself
    named = [tokens.TokenWithId(str(place), place) for place in range(seq + 1)]
    return step.get_sequence_cls(
        source=named[:-1], target=named, target_attributions=raw, step_scores={}, sequence_scores={}, attr_pos_start=seq, attr_pos_end=seq + 1
    )


def _split(name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options that Inseq wants when the method is made, and those that it wants when it runs."""
    constructor = set(signature(_methods()[name].__init__).parameters) - {"self", "attribution_model", "kwargs"}
    constructor |= {option for start, some in CONSTRUCTED.items() if name.startswith(start) for option in some}
    made = {key: value for key, value in options.items() if key in constructor}
    return made, {key: value for key, value in options.items() if key not in made}


def _check(name: str, method: Any, asked: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    taken = signature(method.method.attribute).parameters if hasattr(method, "method") else {}
    inner = (*method.ignore_extra_args, "kwargs", "_target")
    known = [key for key in taken if key not in inner and not key.endswith(("_states", "_attentions"))]
    unknown = sorted(set(asked) - set(known))
    if unknown:
        made_of = set(signature(type(method).__init__).parameters) - {"self", "attribution_model", "kwargs"}
        has = ", ".join(sorted({*known, *made, *made_of, *OURS}))
        raise OptionError(f"{PREFIX}{name} has no option {', '.join(map(repr, unknown))}; it has {has}")


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


def _methods() -> dict[str, type]:
    """Inseq's methods by name, without those that we put there ourselves."""
    try:
        known = import_module("inseq.attr.feat").FeatureAttribution.available_classes()
    except ModuleNotFoundError as error:
        raise NoiserError(f"{MISSING} ({error})") from error
    return {name: kind for name, kind in known.items() if not kind.__module__.startswith("noiser.") and name != "dummy"}


def _read(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            return json.loads(value)
    return value
