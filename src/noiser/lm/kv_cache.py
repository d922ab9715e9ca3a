"""The clean run of a prompt, kept for reuse: what comes before a perturbed token does not change."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from noiser.text.prompt import Prompt

KeysValues = tuple[Float[Tensor, "1 _ _ _"], Float[Tensor, "1 _ _ _"]]


@dataclass(frozen=True, eq=False)
class CleanRun:
    """A prompt as the model sees it unperturbed."""

    prompt: Prompt
    embeds: Float[Tensor, "seq dim"]
    """What the model's own input embedding module returns, in the model's dtype."""
    logits: Float[Tensor, " vocab"]
    """Of the next token, float32."""
    layers: tuple[KeysValues, ...]
    """Keys and values of each layer; empty where the model keeps something else."""
    gradient: Float[Tensor, "seq dim"] | None = None
    """With respect to the embeddings, float32, of what was asked for: the top-two margin, or what is explained. None where
    nothing was, or where memory did not allow it."""
    attention: Tensor | None = None
    """Its attention weights as folded; None where nobody asked. Of a beginning: see `source`."""
    whole: "CleanRun | None" = None
    """The longer sequence that this one is the beginning of, where both come from one run."""

    @cached_property
    def probs(self) -> Float[Tensor, " vocab"]:
        """The next token's distribution, softmax in float32."""
        return self.logits.softmax(-1)

    @property
    def source(self) -> "CleanRun":
        """The sequence whose keys and values are held; beginnings of the same one share them."""
        return self.whole or self

    def beginning(self, length: int, logits: Float[Tensor, " vocab"], gradient: Float[Tensor, "_ dim"] | None) -> "CleanRun":
        """The first `length` positions, with what the model says there."""
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers)
        cut = None if gradient is None else gradient[:length]
        return CleanRun(self.prompt.cropped(length), self.embeds[:length], logits, layers, cut, whole=self.source)

    def only(self, positions: Sequence[int]) -> "CleanRun":
        """Some of its tokens as a sequence of their own. It has not been run: no logits (NaN), and no keys to reuse, so only
        edits from position 0 on make sense of it."""
        whole = self.prompt
        ids, special = (tuple(each[place] for place in positions) for each in (whole.input_ids, whole.special))
        tokens = tuple(whole.tokens[place] for place in positions)
        part = Prompt("".join(tokens), tuple(map(int, ids)), tokens, tuple(map(bool, special)))
        return CleanRun(part, self.embeds[list(positions)], torch.full_like(self.logits, torch.nan), self.layers)

    @property
    def prediction(self) -> int:
        """The most probable token; among equals the lowest id."""
        return int(self.probs.argmax())


class PrefixLayer(DynamicLayer):
    """Keys and values that stand before the new ones of every row. Expanded on the fly, never grown, never stored."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._prefix = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """Both joined, for attention to use once: what one layer needs is gone before the next one runs."""
        keys, values = self._prefix
        return _join(keys, key_states), _join(values, value_states)


def _join(prefix: Tensor, new: Tensor) -> Tensor:
    return torch.cat([prefix.expand(len(new), -1, -1, -1), new], dim=-2)


def prefix_cache(parts: Sequence[tuple[CleanRun, int]]) -> Cache:
    """The first `length` positions of each clean prompt, side by side along the sequence, as one cache."""
    joined = []
    for layer in zip(*(clean.layers for clean, _ in parts), strict=True):
        lengths = [length for _, length in parts]
        keys, values = (torch.cat([kv[side][:, :, :n] for kv, n in zip(layer, lengths, strict=True)], -2) for side in (0, 1))
        joined.append(PrefixLayer(keys, values))
    return Cache(layers=joined)


def read_cache(cache: DynamicCache) -> tuple[KeysValues, ...]:
    """Keys and values of each layer; empty unless every layer is plain attention over all positions."""
    pairs = [(layer.keys, layer.values) for layer in cache.layers if type(layer) is DynamicLayer]
    filled = tuple((keys.detach(), values.detach()) for keys, values in pairs if keys is not None and values is not None)
    same_length = len({keys.shape[-2] for keys, _ in filled}) == 1
    return filled if same_length and len(filled) == len(cache.layers) else ()


def split_layers(layers: tuple[KeysValues, ...], lengths: Sequence[int]) -> list[tuple[KeysValues, ...]]:
    """A joint cache cut into its prompts' own."""
    cut = [(keys.split(list(lengths), -2), values.split(list(lengths), -2)) for keys, values in layers]
    return [tuple((keys[n], values[n]) for keys, values in cut) for n in range(len(lengths))]
