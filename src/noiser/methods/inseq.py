"""Inseq's methods as `inseq:<name>`, for every name in `inseq.list_feature_attribution_methods()`.

Inseq is imported only when one of them is used. It gets token ids, never text. The model, the tokenizer and the global random
generators are restored afterwards.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
from noiser.lm.devices import is_out_of_memory, unify_memory_errors
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel
from noiser.lm.restore import drawing_from, restore_after
from noiser.lm.target import Objective
from noiser.methods.base import MethodOutput
from noiser.registry import Method
from noiser.rng import generator

MISSING = "Inseq is not installed: pip install 'noiser[inseq]', or pip install inseq"
CONSTRUCTOR_OPTIONS = {"lime": ("mask_prob",), "layer": ("target_layer",)}
"""Constructor options that Inseq does not name in the signature, by the beginning of the method's name."""


def inseq_methods() -> dict[str, type]:
    """Inseq's methods by name, without those that noiser registered in Inseq."""
    try:
        classes = import_module("inseq.attr.feat").FeatureAttribution.available_classes()
    except ModuleNotFoundError as error:
        raise NoiserError(f"{MISSING} ({error})") from error
    return {name: kind for name, kind in classes.items() if not kind.__module__.startswith("noiser.") and name != "dummy"}


def wrap_model(lm: LanguageModel, name: str, constructor_options: Mapping[str, Any]) -> Any:
    """Inseq's wrapper around the model, with the method attached. A method that reads attention weights gets eager attention."""
    models = import_module("inseq.models")
    if name == "attention" and lm.model.config._attn_implementation != "eager":
        lm.model.set_attn_implementation("eager")
    return models.HuggingfaceModel.load(lm.model, name, lm.tokenizer, str(lm.device), {}, {}, **constructor_options)


def make_batch(host: Any, ids: Sequence[int]) -> Any:
    """The ids as Inseq's batch of one, with Inseq's own baseline: unknown tokens, except at end-of-sequence tokens."""
    data = import_module("inseq.data")
    row = torch.tensor([list(ids)], device=host.device)
    baseline = torch.where(row == host.eos_token_id, row, torch.full_like(row, host.tokenizer.unk_token_id))
    tokens = [host.tokenizer.convert_ids_to_tokens(list(ids))]
    encoding = data.BatchEncoding(row, torch.ones_like(row), tokens, baseline)
    return host.formatter.prepare_inputs_for_attribution(host, encoding)


def make_sequence(step: Any, seq: int, final_step: bool) -> Any:
    """The step's raw scores [seq, 1, ...] as the sequence object that aggregates them as Inseq does.

    It is built here because Inseq would drop every token of the prompt that reads like its padding token.
    """
    types = import_module("inseq.utils.typing")
    raw = step.target_attributions.detach().float().cpu()
    raw = raw[0, :seq, seq - 1][:, None] if final_step else raw[0, :, None]
    raw = torch.cat([raw, torch.full_like(raw[:1], torch.nan)])  # the target does not explain itself
    named = [types.TokenWithId(str(position), position) for position in range(seq + 1)]
    return step.get_sequence_cls(
        source=named[:-1],
        target=named,
        target_attributions=raw,
        step_scores={},
        sequence_scores={},
        attr_pos_start=seq,
        attr_pos_end=seq + 1,
    )


def split_options(name: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for the method's constructor, and the options for its run."""
    known = _constructor_options(name)
    constructor = {key: value for key, value in options.items() if key in known}
    return constructor, {key: value for key, value in options.items() if key not in known}


def _constructor_options(name: str) -> set[str]:
    named = set(signature(inseq_methods()[name].__init__).parameters) - {"self", "attribution_model", "kwargs"}
    return named.union(*(options for start, options in CONSTRUCTOR_OPTIONS.items() if name.startswith(start)))


def check_options(name: str, method: Any, options: Mapping[str, Any], own_options: Sequence[str]) -> None:
    """Raises OptionError for an option that the constructed method does not have. `own_options` are added by noiser."""
    accepted = signature(method.method.attribute).parameters if hasattr(method, "method") else {}
    internal = (*method.ignore_extra_args, "kwargs", "_target")
    known = [key for key in accepted if key not in internal and not key.endswith(("_states", "_attentions"))]
    unknown = sorted(set(options) - set(known))
    if unknown:
        has = ", ".join(sorted({*known, *_constructor_options(name), *own_options}))
        raise OptionError(f"inseq:{name} has no option {', '.join(map(repr, unknown))}; it has {has}")


PREFIX = "inseq:"
DETERMINISTIC = (
    "attention", "deeplift", "discretized_integrated_gradients", "input_x_gradient", "integrated_gradients", "layer_deeplift",
    "layer_gradient_x_activation", "layer_integrated_gradients", "occlusion", "saliency", "sequential_integrated_gradients",
    "value_zeroing",
)  # fmt: skip
"""Methods without random numbers. The others draw from global generators, and a method that is not listed may."""
USES_PICKLE = ("discretized_integrated_gradients", "reagent")
"""Methods that store precomputed data as a pickle in Inseq's cache, and read what they find there."""


@dataclass(frozen=True)
class InseqMethod(Method):
    """A method of Inseq. It takes Inseq's own options, and `seed`, `attributed_fn` and `allow_pickle`."""

    @property
    def options(self) -> dict[str, Any]:
        """The defaults. The names of Inseq's own options are known only when the method runs."""
        return {} if self.name.removeprefix(PREFIX) in DETERMINISTIC else {"seed": 0}

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The given options, with text that is JSON parsed. Unknown names are refused when the method runs."""
        resolved = self.options | {name: _parse_json(value) for name, value in options.items()}
        if "seed" in resolved and "seed" not in self.options:
            raise OptionError(f"{self.name} uses no random numbers, so it has no seed")
        if not isinstance(resolved.get("seed", 0), int) or isinstance(resolved.get("seed"), bool):
            raise OptionError(f"{self.name}: seed wants an int; got {resolved['seed']!r}")
        return resolved


def find_inseq(name: str) -> InseqMethod:
    """The method `inseq:<name>`. Raises NoiserError if Inseq is missing, and OptionError with a list of its methods if the name is
    unknown."""
    inseq_name, known = name.removeprefix(PREFIX), inseq_methods()
    if inseq_name not in known:
        raise OptionError(f"Inseq has no method {inseq_name!r}; it has {', '.join(sorted(known))}")
    source = f"Inseq {version('inseq')}"
    return InseqMethod(name=name, family="inseq", source=source, changes="as Inseq does", function=partial(_run, name=inseq_name))


def inseq_scores(
    lm: LanguageModel, input_ids: Sequence[int], target_id: int, name: str, options: Mapping[str, Any]
) -> tuple[Float[np.ndarray, " seq"], dict[str, Any]]:
    """Scores by Inseq's method `name`, one for each token, aggregated with Inseq's defaults, and notes about them.

    The scores explain `attributed_fn` (by default the probability) of `target_id` after `input_ids`, whether or not the
    model predicts this token. Raises OptionError for options that the method does not have, DeviceMemoryError, and
    NoiserError with Inseq's message if Inseq fails on this model.
    """
    if name in USES_PICKLE and not options.get("allow_pickle"):
        raise NoiserError(f"Inseq's {name} reads a pickle from its cache, which can run any code: set allow_pickle=true to allow it")
    seed = int(generator(options.get("seed", 0), tuple(input_ids), PREFIX + name).integers(2**32))
    inseq_options = {key: value for key, value in options.items() if key not in ("allow_pickle", "seed")}
    with restore_after(lm.model, lm.tokenizer), drawing_from(seed, *lm.devices), unify_memory_errors(), _with_gradients():
        lm.model.register_forward_pre_hook(partial(_count_tokens, lm), with_kwargs=True)
        try:
            return _scores(lm, input_ids, target_id, name, inseq_options)
        except Exception as error:
            if isinstance(error, NoiserError) or is_out_of_memory(error):
                raise
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise NoiserError(f"Inseq's {name} fails on {type(lm.model).__name__}: {message}") from error


@contextmanager
def _with_gradients() -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _count_tokens(lm: LanguageModel, _module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A hook that counts the tokens that Inseq sends through the model. With gradients enabled, Inseq computes one."""
    inputs = next(tensor for tensor in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), *args) if tensor is not None)
    lm.token_counter.forward_tokens += inputs.shape[0] * inputs.shape[1]
    lm.token_counter.backward_tokens += inputs.shape[0] * inputs.shape[1] * torch.is_grad_enabled()


def _run(lm: LanguageModel, clean: CleanRun, objective: Objective, *, name: str, **options: Any) -> MethodOutput:
    target = objective.target
    if len(target.token_ids) != 1 or target.foil is not None or target.quantity != "prob":
        raise OptionError(f"{PREFIX}{name} explains the probability of one next token: no target of several, foil, span or function")
    return MethodOutput(*inseq_scores(lm, clean.prompt.input_ids, target.token_ids[0], name, options))


def _scores(
    lm: LanguageModel, ids: Sequence[int], target: int, name: str, options: Mapping[str, Any]
) -> tuple[Float[np.ndarray, " seq"], dict[str, Any]]:
    constructor_options, run_options = split_options(name, options)
    host = wrap_model(lm, name, constructor_options)
    method, attributed = host.attribution_method, host.get_attributed_fn(run_options.pop("attributed_fn", None))
    check_options(name, method, run_options, _own_options(name))
    target_ids = torch.tensor([[target]], device=lm.device)
    step = method.filtered_attribute_step(make_batch(host, ids), target_ids, attributed, attribution_args=run_options)
    sequence = make_sequence(step, len(ids), method.is_final_step_method)
    scores = sequence.aggregate().target_attributions[: len(ids), 0].double().numpy()
    if not np.isfinite(scores).all():
        raise NonFiniteError(f"Inseq's {name} gave scores that are NaN or infinite")
    return scores, _notes(name, scores, sequence, step, attributed, method)


def _own_options(name: str) -> list[str]:
    """Options that noiser adds, or that Inseq takes for every method."""
    return ["attributed_fn", *(["allow_pickle"] if name in USES_PICKLE else []), *(["seed"] if name not in DETERMINISTIC else [])]


def _notes(name: str, scores: np.ndarray, sequence: Any, step: Any, attributed: Any, method: Any) -> dict[str, Any]:
    aggregator = sequence._aggregator
    aggregators = [aggregator] if isinstance(aggregator, str) else list(aggregator)
    notes: dict[str, Any] = {
        "inseq": version("inseq"),
        "aggregation": ", ".join([*aggregators, "divided by the sum of absolute values"]) if aggregators else "none",
        "attributed": attributed.__name__.removesuffix("_fn"),
        "warnings": [],
    }
    if "deltas" in step.step_scores:
        notes["convergence_delta"] = float(step.step_scores["deltas"])
    if method.is_final_step_method:
        notes["warnings"].append(f"Inseq's {name} does not depend on the target: any other target gets the same scores.")
    if not scores.any():
        notes["warnings"].append(f"Inseq's {name} gave every token 0 here.")
    return notes


def _parse_json(value: Any) -> Any:
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            return json.loads(value)
    return value
