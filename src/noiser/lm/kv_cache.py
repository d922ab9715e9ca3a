"""The clean run of a prompt and its keys and values, which rows reuse: nothing before a perturbed token changes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from noiser.text.prompt import Prompt

KeysValues = tuple[Float[Tensor, "1 _ _ _"], Float[Tensor, "1 _ _ _"]]


LayoutName = Literal["packed", "full"]
"""How the rows of a batch are arranged in one forward pass, see `noiser.lm.forward`."""


@dataclass(frozen=True, eq=False)
class RowGradients:
    """The explained quantity in some perturbed rows, and its gradient."""

    values: tuple[float, ...]
    """In each row."""
    total: Float[Tensor, "seq dim"]
    """Weighted sum over the rows of the gradient with respect to the perturbed embeddings, float32."""
    parts: Float[Tensor, "rows seq dim"] | None = None
    """The parts of that sum. None unless requested."""


@dataclass(frozen=True, eq=False)
class CleanRun:
    """A prompt as the model sees it without any perturbation."""

    prompt: Prompt
    embeds: Float[Tensor, "seq dim"]
    """The output of the model's input embedding module, in the model's dtype."""
    logits: Float[Tensor, " vocab"]
    """Logits of the next token, float32."""
    layers: tuple[KeysValues, ...]
    """Keys and values of each layer. Empty if the model caches something else."""
    gradient: Float[Tensor, "seq dim"] | None = None
    """Gradient of the requested scalar with respect to the embeddings, float32: of the top-two margin or of the explained
    quantity. None if no gradient was requested, or if memory did not allow it."""
    attention: Tensor | None = None
    """The reduced attention weights. None if no reducer was requested, and in a truncated run: see `source`."""
    ahead: RowGradients | None = None
    """What was read from the rows that went through the model with this run, see `noiser.lm.ahead`. None if there were none."""
    whole: "CleanRun | None" = None
    """The longer run that this one was truncated from. None if it was not truncated."""
    choose_layout: Callable[[int], LayoutName] = lambda _seq: "full"
    """The layout of rows that perturb a prompt of so many tokens."""
    length_class: Callable[[int], int] = lambda _seq: 0
    """Prompts of one class may share a pass, see `noiser.lm.rotary`."""

    @cached_property
    def layout(self) -> LayoutName:
        """The layout of rows that perturb this prompt. It is chosen when the first row runs."""
        return self.choose_layout(len(self.prompt))

    @property
    def has_rows(self) -> bool:
        """Whether rows that perturb this prompt have run."""
        return "layout" in vars(self)

    @cached_property
    def probs(self) -> Float[Tensor, " vocab"]:
        """The distribution of the next token, softmax in float32."""
        return self.logits.softmax(-1)

    @property
    def prediction(self) -> int:
        """The most probable next token. A tie goes to the lowest id."""
        return int(self.probs.argmax())

    @property
    def source(self) -> "CleanRun":
        """The run that holds the keys and values. All truncations of one run share them."""
        return self.whole or self

    def truncated(self, length: int, logits: Float[Tensor, " vocab"], gradient: Float[Tensor, "_ dim"] | None) -> "CleanRun":
        """The first `length` positions, with the model's logits there."""
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers)
        return CleanRun(
            prompt=self.prompt.cropped(length),
            embeds=self.embeds[:length],
            logits=logits,
            layers=layers,
            gradient=None if gradient is None else gradient[:length],
            whole=self.source,
            choose_layout=self.choose_layout,
            length_class=self.length_class,
        )

    def subset(self, positions: Sequence[int]) -> "CleanRun":
        """Some of the tokens as a sequence of their own.

        This sequence was not run: its logits are NaN and there are no keys to reuse. Only perturbations that start at
        position 0 are valid.
        """
        prompt = self.prompt
        tokens = tuple(prompt.tokens[position] for position in positions)
        kept = Prompt(
            text="".join(tokens),
            input_ids=tuple(int(prompt.input_ids[position]) for position in positions),
            tokens=tokens,
            special=tuple(bool(prompt.special[position]) for position in positions),
        )
        no_logits = torch.full_like(self.logits, torch.nan)
        embeds = self.embeds[list(positions)]
        return CleanRun(kept, embeds, no_logits, self.layers, choose_layout=self.choose_layout, length_class=self.length_class)


class PrefixLayer(DynamicLayer):
    """Keys and values that precede the new ones in every row. They are expanded on use, never extended and never stored."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._prefix = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """The prefix joined with the new states. The result is freed before the next layer runs."""
        keys, values = self._prefix
        return _join(keys, key_states), _join(values, value_states)


def _join(prefix: Tensor, new: Tensor) -> Tensor:
    if not prefix.shape[-2]:
        return new
    return torch.cat([prefix.expand(len(new), -1, -1, -1), new], dim=-2)


class GrowingLayer(PrefixLayer):
    """The same, for rows that are run in blocks: each block's keys and values are stored behind those of the blocks before it."""

    def __init__(self, keys: Tensor, values: Tensor, tokens: int) -> None:
        super().__init__(keys, values)
        self._tokens, self._filled = tokens, 0
        self._own: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        """The prefix, the blocks before, and this block. Only the blocks, of `tokens` tokens in all, stay in memory."""
        if self._own is None:
            keys, values = (new.new_empty(*new.shape[:2], self._tokens, new.shape[-1]) for new in (key_states, value_states))
            self._own = keys, values
        filled = self._filled + key_states.shape[-2]
        for own, new in zip(self._own, (key_states, value_states), strict=True):
            own[:, :, self._filled : filled] = new
        self._filled = filled
        keys, values = (_join(prefix, own[:, :, :filled]) for prefix, own in zip(self._prefix, self._own, strict=True))
        return keys, values


def prefix_cache(prefixes: Sequence[tuple[CleanRun, int]], growing: int = 0) -> Cache:
    """One cache of the first `length` positions of each (clean run, length), concatenated along the sequence.

    growing  the number of tokens that come behind it in blocks; 0: in one pass.
    """
    lengths = [length for _, length in prefixes]
    layers = []
    for pairs in zip(*(clean.layers for clean, _ in prefixes), strict=True):
        keys, values = (_concatenated([pair[side][:, :, :n] for pair, n in zip(pairs, lengths, strict=True)]) for side in (0, 1))
        layers.append(GrowingLayer(keys, values, growing) if growing else PrefixLayer(keys, values))
    return Cache(layers=layers)


def _concatenated(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=-2)


def new_cache(model: Any) -> DynamicCache | None:
    """An empty cache for a clean run. None if the model's own generation keeps more than the keys and values of attention, as
    state-space and linear-attention layers do: such a model runs without a cache."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    return DynamicCache() if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers) else None


def read_cache(cache: DynamicCache | None) -> tuple[KeysValues, ...]:
    """Keys and values of each layer. Empty unless every layer is plain attention over all positions."""
    if cache is None:
        return ()
    pairs = [(layer.keys, layer.values) for layer in cache.layers if type(layer) is DynamicLayer]
    filled = tuple((keys.detach(), values.detach()) for keys, values in pairs if keys is not None and values is not None)
    same_length = len({keys.shape[-2] for keys, _ in filled}) == 1
    return filled if same_length and len(filled) == len(cache.layers) else ()


def split_layers(layers: tuple[KeysValues, ...], lengths: Sequence[int]) -> list[tuple[KeysValues, ...]]:
    """Split the keys and values of concatenated prompts into those of each prompt."""
    pieces = [(keys.split(list(lengths), -2), values.split(list(lengths), -2)) for keys, values in layers]
    return [tuple((keys[n], values[n]) for keys, values in pieces) for n in range(len(lengths))]
