"""noiser's methods in Inseq: `import noiser.integrations.inseq`, then `inseq.load_model(model, "noiser", tokenizer=tokenizer)`.

Every method whose name Inseq does not have is registered. The scores equal those of `noiser.attribute` for the same ids and
target: signed, in the method's own units. Inseq neither aggregates nor normalises them.

`python -m noiser.integrations.inseq attribute ...` is Inseq's command line with noiser's methods.
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
_engines: WeakKeyDictionary[Any, LanguageModel] = WeakKeyDictionary()
"""The engine of each Inseq model. It is made once, so that the model is checked once and not at every generated token."""


class NoiserAttribution(FeatureAttribution, Registry):
    """A noiser method as Inseq expects it: one score for each token of the prefix, at each generated token.

    The method's options are given to `load_model` for all calls, or to `attribute` for one call.
    """

    method_name: ClassVar[str]
    """The method's name in Inseq, set by each registered class."""

    def __init__(self, attribution_model: Any, **options: Any) -> None:
        super().__init__(attribution_model)
        if attribution_model.is_encoder_decoder:
            raise ModelError(f"{self.method_name} explains decoders; {type(attribution_model.model).__name__} is an encoder-decoder")
        METHODS[self.method_name].resolve(options)
        self.options = options

    def get_attribution_args(self, **arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split Inseq's arguments into the method's options and the rest. Raises OptionError for an unknown argument."""
        inseq_arguments = {name: value for name, value in arguments.items() if name in _inseq_arguments()}
        options = {name: value for name, value in arguments.items() if name not in inseq_arguments}
        METHODS[self.method_name].resolve(self.options | options)
        return self.options | options, inseq_arguments

    def attribute_step(
        self, attribute_fn_main_args: Mapping[str, Any], attribution_args: Mapping[str, Any] | None = None
    ) -> CoarseFeatureAttributionStepOutput:
        """Explain the next token of every row of the batch. Padding gets NaN."""
        ids, targets, attributed, mask, _, further, *_ = attribute_fn_main_args["additional_forward_args"]
        if attributed is not probability_fn or further:
            raise OptionError(
                f"{self.method_name} explains the target's probability; leave attributed_fn and its arguments at their defaults"
            )
        scores = torch.full(ids.shape, torch.nan)
        kept = mask.bool().cpu()
        for row, attribution in self._explain(ids.cpu(), targets.flatten().tolist(), kept, attribution_args or self.options).items():
            scores[row, kept[row]] = torch.from_numpy(attribution.scores[0].copy()).float()
            _log_warnings(attribution)
        return CoarseFeatureAttributionStepOutput(target_attributions=scores)

    def _explain(self, ids: Tensor, targets: list[int], kept: Tensor, options: Mapping[str, Any]) -> dict[int, Attribution]:
        """The attribution of each row. Rows with the same target share batches."""
        rows_of: defaultdict[int, list[int]] = defaultdict(list)
        for row, target in enumerate(targets):
            rows_of[target].append(row)
        lm, explained = _engine(self.attribution_model), {}
        for target, rows in rows_of.items():
            prompts = [ids[row, kept[row]].tolist() for row in rows]
            explained.update(zip(rows, attribute_many(lm, prompts, self.method_name, target, **options), strict=True))
        return explained


def _engine(host: Any) -> LanguageModel:
    """The engine for the model that Inseq holds now. It is a new one if the model was exchanged or moved."""
    lm = _engines.get(host)
    device = host.model.get_input_embeddings().weight.device
    if lm is None or lm.model is not host.model or lm.tokenizer is not host.tokenizer or lm.device != device:
        lm = _engines[host] = LanguageModel(host.model, host.tokenizer)
    return lm


def _inseq_arguments() -> set[str]:
    """Arguments that Inseq passes to every method because one of its step functions may need them."""
    functions: list[Callable] = [*STEP_SCORES_MAP.values()]
    return {"skip_special_tokens", *(name for function in functions for name in signature(function).parameters)} - {"args", "kwargs"}


def _log_warnings(attribution: Attribution) -> None:
    """Inseq has no field for a method's warnings, so they are logged."""
    for warning in attribution.notes.get("warnings", ()):
        logger.warning("%s of %r: %s", attribution.method, attribution.target.tokens[0], warning)


def register() -> dict[str, type[NoiserAttribution]]:
    """Register noiser's methods as subclasses, which is how Inseq finds methods. A name that Inseq has stays Inseq's."""
    taken = FeatureAttribution.available_classes()
    return {
        name: type(
            f"{name.title().replace('_', '')}Attribution", (NoiserAttribution,), {"method_name": name, "__doc__": method.function.__doc__}
        )
        for name, method in METHODS.items()
        if name not in taken
    }


REGISTERED = register()
"""Keeps the classes alive: Inseq's registry does not hold a reference to them."""

if __name__ == "__main__":
    from inseq.commands.cli import main

    main()
