"""Inseq's objects around our model and our ids. Inseq is imported by the functions here, not by this file."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch

from noiser.errors import NoiserError, OptionError
from noiser.lm.model import LanguageModel

MISSING = "Inseq is not installed: pip install 'noiser[inseq]', or pip install inseq"
CONSTRUCTED = {"lime": ("mask_prob",), "layer": ("target_layer",)}
"""Options that Inseq takes when a method is made but does not name in its signature."""


def inseq_methods() -> dict[str, type]:
    """Inseq's methods by name, without those that we put there ourselves."""
    try:
        known = import_module("inseq.attr.feat").FeatureAttribution.available_classes()
    except ModuleNotFoundError as error:
        raise NoiserError(f"{MISSING} ({error})") from error
    return {name: kind for name, kind in known.items() if not kind.__module__.startswith("noiser.") and name != "dummy"}


def host_of(lm: LanguageModel, name: str, made: Mapping[str, Any]) -> Any:
    """Inseq's wrapper around our model, with the method on it. Methods that read attention weights need eager attention."""
    models = import_module("inseq.models")
    if name == "attention" and lm.model.config._attn_implementation != "eager":
        lm.model.set_attn_implementation("eager")
    return models.HuggingfaceModel.load(lm.model, name, lm.tokenizer, str(lm.device), {}, {}, **made)


def batch_of(host: Any, ids: Sequence[int]) -> Any:
    """Our ids as Inseq's batch of one. Its baseline is its own: the unknown token everywhere but at end-of-sequence tokens."""
    data = import_module("inseq.data")
    row = torch.tensor([list(ids)], device=host.device)
    baseline = torch.where(row == host.eos_token_id, row, torch.full_like(row, host.tokenizer.unk_token_id))
    tokens = [host.tokenizer.convert_ids_to_tokens(list(ids))]
    encoding = data.BatchEncoding(row, torch.ones_like(row), tokens, baseline)
    return host.formatter.prepare_inputs_for_attribution(host, encoding)


def sequence_of(step: Any, seq: int, final_step: bool) -> Any:
    """The step's raw scores [seq, 1, ...] as the sequence object that knows how Inseq aggregates them.

    Built here and not by Inseq, which would drop every token of the prompt that reads like its pad token.
    """
    tokens = import_module("inseq.utils.typing")
    raw = step.target_attributions.detach().float().cpu()
    raw = raw[0, :seq, seq - 1][:, None] if final_step else raw[0, :, None]
    raw = torch.cat([raw, torch.full_like(raw[:1], torch.nan)])  # the target does not explain itself
    named = [tokens.TokenWithId(str(place), place) for place in range(seq + 1)]
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
    """Options that Inseq wants when the method is made, and those that it wants when it runs."""
    made = {key: value for key, value in options.items() if key in _constructor(name)}
    return made, {key: value for key, value in options.items() if key not in made}


def _constructor(name: str) -> set[str]:
    named = set(signature(inseq_methods()[name].__init__).parameters) - {"self", "attribution_model", "kwargs"}
    return named.union(*(some for start, some in CONSTRUCTED.items() if name.startswith(start)))


def check_options(name: str, method: Any, asked: Mapping[str, Any], also: Sequence[str]) -> None:
    """Raises OptionError for an option that the method, made by now, does not have; `also` are those that it has from us."""
    taken = signature(method.method.attribute).parameters if hasattr(method, "method") else {}
    inner = (*method.ignore_extra_args, "kwargs", "_target")
    known = [key for key in taken if key not in inner and not key.endswith(("_states", "_attentions"))]
    unknown = sorted(set(asked) - set(known))
    if unknown:
        has = ", ".join(sorted({*known, *_constructor(name), *also}))
        raise OptionError(f"inseq:{name} has no option {', '.join(map(repr, unknown))}; it has {has}")
