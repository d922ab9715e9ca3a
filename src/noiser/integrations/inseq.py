"""Our methods in Inseq: after `import noiser.integrations.inseq`, `inseq.load_model(model, "noiser", tokenizer=tokenizer)`.

Every method of ours whose name Inseq does not have is entered, `noiser` first of all. Scores are what `noiser.attribute`
gives for the same ids and target: signed, in the method's own units; Inseq neither aggregates nor normalises them.

`python -m noiser.integrations.inseq attribute ...` is Inseq's own command line, with our methods in it.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from noiser.attribution.attribute import attribute_many
from noiser.errors import ModelError, OptionError
from noiser.lm.model import LanguageModel
from noiser.methods import METHODS
from noiser.results.attribution import Attribution

try:
    from inseq.attr.feat import FeatureAttribution
    from inseq.attr.step_functions import STEP_SCORES_MAP, probability_fn
    from inseq.data.attribution import CoarseFeatureAttributionStepOutput
    from inseq.utils import Registry
except ModuleNotFoundError as error:
    raise ImportError(f"noiser.integrations.inseq needs Inseq: pip install 'noiser[inseq]', or pip install inseq ({error})") from error

logger = logging.getLogger(__name__)
_wrapped: WeakKeyDictionary[Any, LanguageModel] = WeakKeyDictionary()
"""The engine around each of Inseq's models: made once, so that it proves itself once and not at every generated token."""


class NoiserAttribution(FeatureAttribution, Registry):
    """A method of ours as Inseq wants it: one score for each token of the prefix, at each generated token.

    Options are the method's, given to `load_model` for good or to `attribute` for one call.
    """

    method_name: ClassVar[str]
    """Inseq's name of the method, set by each class that is entered."""

    def __init__(self, attribution_model: Any, **options: Any) -> None:
        super().__init__(attribution_model)
        if attribution_model.is_encoder_decoder:
            raise ModelError(f"{self.method_name} explains decoders; {type(attribution_model.model).__name__} is an encoder-decoder")
        METHODS[self.method_name].resolve(options)
        self.options = options

    def get_attribution_args(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What Inseq was given, parted into our method's options and the rest; OptionError for what nobody there knows."""
        theirs = {name: value for name, value in given.items() if name in _known_to_inseq()}
        ours = {name: value for name, value in given.items() if name not in theirs}
        METHODS[self.method_name].resolve(self.options | ours)
        return self.options | ours, theirs

    def attribute_step(
        self, attribute_fn_main_args: Mapping[str, Any], attribution_args: Mapping[str, Any] | None = None
    ) -> CoarseFeatureAttributionStepOutput:
        """Explain the next token of every row of the batch; NaN where a row is padded."""
        ids, targets, attributed, mask, _, further, *_ = attribute_fn_main_args["additional_forward_args"]
        if attributed is not probability_fn or further:
            raise OptionError(
                f"{self.method_name} explains the target's probability; leave attributed_fn and its arguments at their defaults"
            )
        scores = torch.full(ids.shape, torch.nan)
        kept = mask.bool().cpu()
        for row, attribution in self._explain(ids.cpu(), targets.flatten().tolist(), kept, attribution_args or self.options).items():
            scores[row, kept[row]] = torch.from_numpy(attribution.scores[0].copy()).float()
            _say(attribution)
        return CoarseFeatureAttributionStepOutput(target_attributions=scores)

    def _explain(self, ids: Tensor, targets: list[int], kept: Tensor, options: Mapping[str, Any]) -> dict[int, Attribution]:
        """Each row's attribution; rows with the same target share batches."""
        rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row, target in enumerate(targets):
            rows_of[target].append(row)
        lm, explained = _engine(self.attribution_model), {}
        for target, rows in rows_of.items():
            prompts = [ids[row, kept[row]].tolist() for row in rows]
            explained.update(zip(rows, attribute_many(lm, prompts, self.method_name, target, **options), strict=True))
        return explained


def _engine(host: Any) -> LanguageModel:
    """The engine around the model that Inseq holds now: another one if it was exchanged, or moved."""
    lm = _wrapped.get(host)
    device = host.model.get_input_embeddings().weight.device
    if lm is None or lm.model is not host.model or lm.tokenizer is not host.tokenizer or lm.device != device:
        lm = _wrapped[host] = LanguageModel(host.model, host.tokenizer)
    return lm


def _known_to_inseq() -> set[str]:
    """Arguments that Inseq hands on to every method because one of its step functions may want them."""
    functions: list[Callable] = [*STEP_SCORES_MAP.values()]
    return {"skip_special_tokens", *(name for function in functions for name in signature(function).parameters)} - {"args", "kwargs"}


def _say(attribution: Attribution) -> None:
    """Inseq has no place for what a method found on the way, so its warnings are logged."""
    for sentence in attribution.notes.get("warnings", ()):
        logger.warning("%s of %r: %s", attribution.method, attribution.target.tokens[0], sentence)


def enter() -> dict[str, type[NoiserAttribution]]:
    """Enter our methods into Inseq's registry, which finds subclasses; the names that Inseq has stay Inseq's."""
    taken = FeatureAttribution.available_classes()
    return {
        name: type(
            f"{name.title().replace('_', '')}Attribution", (NoiserAttribution,), {"method_name": name, "__doc__": found.function.__doc__}
        )
        for name, found in METHODS.items()
        if name not in taken
    }


ENTERED = enter()
"""Held here: Inseq's registry knows its methods only as long as their classes live."""

if __name__ == "__main__":
    from inseq.commands.cli import main

    main()
