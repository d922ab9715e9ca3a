"""The model at hand, changed: one of its tokens ignored, or its weights shuffled."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from noiser.errors import ModelError
from noiser.lm.runner import LanguageModel
from noiser.seeding import generator


def ignoring(lm: LanguageModel, position: int) -> LanguageModel:
    """The same model, blind to what stands at `position`: it is taken out before the model sees the sequence."""
    return LanguageModel(_Blind(lm.model, position), lm.tokenizer, name=lm.name, revision=lm.revision, prefix=False)


class _Blind(nn.Module):
    """A decoder that never sees one position. It keeps no keys: their number would not be that of the tokens."""

    def __init__(self, inner: Any, position: int) -> None:
        super().__init__()
        self.inner = inner
        self.position = position
        self.config = inner.config
        self.dtype = inner.dtype

    def get_input_embeddings(self) -> nn.Module:
        """The inner model's."""
        return self.inner.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,  # noqa: ARG002
        use_cache: Any = None,  # noqa: ARG002
        logits_to_keep: int = 0,
    ) -> Any:
        """As the inner model's, without that position."""
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        seen = {name: self._without(each) for name, each in given.items() if each is not None}
        return self.inner(**seen, use_cache=False, logits_to_keep=logits_to_keep)

    def _without(self, sequence: Tensor) -> Tensor:
        return torch.cat([sequence[:, : self.position], sequence[:, self.position + 1 :]], dim=1)


def shuffled(lm: LanguageModel, seed: int) -> LanguageModel:
    """A copy of the model with every weight in another place of its own tensor: the same sizes, nothing of what it learned.

    Raises ModelError for a model that does not fit on its devices: weights that are elsewhere cannot be moved about.
    """
    if lm.offloaded:
        raise ModelError("a model whose weights are partly offloaded cannot be shuffled: load it where it fits for this check")
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            order = torch.from_numpy(generator(seed, name, "shuffled").permutation(parameter.numel()))
            parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
    return LanguageModel(model, lm.tokenizer, name=lm.name, revision=lm.revision)
