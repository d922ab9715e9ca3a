"""Inseq's objects for noiser's model and token ids. The functions here import Inseq; this file does not."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch

from noiser.errors import NoiserError, OptionError
from noiser.lm.model import LanguageModel

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
