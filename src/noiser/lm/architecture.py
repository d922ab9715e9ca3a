"""Which model a checkpoint holds, by its configuration: noiser explains decoders with a language-model head."""

import inspect
import re
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from noiser.errors import ModelError

LANGUAGE_MODEL = re.compile(r"(CausalLM|LMHeadModel|LMHead|ForConditionalGeneration|ForPreTraining)$")
"""Architectures whose head predicts the next token."""
OTHER_HEADS = {
    re.compile(r"ForSequenceClassification$|RewardModel$"): "classifies whole texts",
    re.compile(r"ForTokenClassification$"): "classifies tokens",
    re.compile(r"ForQuestionAnswering$"): "marks answers in a text",
    re.compile(r"ForMultipleChoice$|ForNextSentencePrediction$"): "scores sentences",
    re.compile(r"ForMaskedLM$"): "fills gaps and sees the tokens behind them",
    re.compile(r"Model$"): "gives hidden states",
}
"""Architectures that are no language models, and what they do instead."""
WANTED = "noiser explains decoders, which predict the next token from the tokens before it"


def check_architecture(config: Any, name: str, *, own_code: bool = False) -> None:
    """Raises ModelError, with the model's name, if the checkpoint's configuration is not that of a decoder.

    A class that comes with the model (`own_code`) may end in `Model`, as some language models of their own do.
    """
    if _is_encoder_decoder(config):
        raise ModelError(
            f"{name} is an encoder-decoder (model type {getattr(config, 'model_type', '?')}): its decoder continues what an encoder has "
            f"read, and alone it would give other numbers. {WANTED}: choose a model of that kind"
        )
    for architecture in _architectures(config):
        use = _other_use(architecture, own_code=own_code)
        if use:
            raise ModelError(
                f"{name} holds a {architecture}, which {use} and has no head for the next token. {WANTED}. If the checkpoint has "
                'such a head, name its class in config.json, under "architectures"'
            )


def keeps_logits(model: Any) -> bool:
    """Whether the model can compute the logits of some positions only. Any other computes those of all."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _is_encoder_decoder(config: Any) -> bool:
    """Whether the checkpoint has an encoder too. Where its decoder was taken alone, its configuration no longer says so."""
    both = any(getattr(config, name, None) for name in ("encoder_layers", "num_decoder_layers"))
    family = both or getattr(config, "model_type", "") in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    whole = any(not name.endswith("ForCausalLM") for name in _architectures(config))
    return bool(getattr(config, "is_encoder_decoder", False)) or (family and whole)


def _architectures(config: Any) -> list[str]:
    """The classes that the checkpoint was saved from. Empty if the configuration names none."""
    names = getattr(config, "architectures", None)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list | tuple) else []


def _other_use(architecture: str, *, own_code: bool) -> str:
    """What a model of this class does if it does not predict the next token. Empty if it does, or if that is not known."""
    if LANGUAGE_MODEL.search(architecture) or (own_code and architecture.endswith("Model")):
        return ""
    return next((use for pattern, use in OTHER_HEADS.items() if pattern.search(architecture)), "")
