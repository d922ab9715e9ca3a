"""Toy models with known answers and the interface of a Hugging Face decoder."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import LlamaConfig

DIM = 16


class ToyLM(nn.Module):
    """Two tokens. Token 0's logit is 1 - sum_i w_i |x_i|, token 1's is 0; every embedding is zero, so only noise matters.

    With one noise vector n, token i flips the prediction at k = 1 / (w_i |n|): the heaviest first, at 1 / (w_max |n|),
    where token i's score is sigmoid(1) - sigmoid(1 - w_i / w_max), whatever n is.
    """

    def __init__(self, weight: list[float], bias: float = 1.0) -> None:
        super().__init__()
        self.config = LlamaConfig(vocab_size=2, hidden_size=DIM, intermediate_size=DIM, num_attention_heads=1, max_position_embeddings=64)
        self.embedding = nn.Embedding(2, DIM)
        nn.init.zeros_(self.embedding.weight)
        self.weight = torch.tensor(weight)
        self.bias = bias
        self.dtype = torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids=None, inputs_embeds=None, past_key_values=None, use_cache=None, logits_to_keep=0) -> SimpleNamespace:
        embeds = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        ends = [embeds.shape[1] - 1] if logits_to_keep else range(embeds.shape[1])
        return SimpleNamespace(logits=torch.stack([self.answer(self._cut(embeds[:, : end + 1])) for end in ends], dim=1))

    def _cut(self, embeds: Tensor) -> Tensor:
        """As many tokens as there are weights: the first ones, or zeros behind them."""
        seq = len(self.weight)
        return nn.functional.pad(embeds[:, :seq], (0, 0, 0, max(0, seq - embeds.shape[1])))

    def answer(self, embeds: Tensor) -> Tensor:
        first = self.bias - (self.weight * embeds.norm(dim=-1)).sum(-1)
        return torch.stack([first, torch.zeros_like(first)], dim=-1)


class BrokenLM(ToyLM):
    """Returns NaN: always, or for noisy rows only."""

    def __init__(self, weight: list[float], *, when_clean: bool) -> None:
        super().__init__(weight)
        self.when_clean = when_clean

    def answer(self, embeds: Tensor) -> Tensor:
        broken = (embeds.norm(dim=(1, 2), keepdim=False) > 0) | torch.tensor(self.when_clean)
        return super().answer(embeds).masked_fill(broken[:, None], torch.nan)


class EmbeddedLM(ToyLM):
    """A toy whose tokens have random embeddings. Subclasses define the logits."""

    def __init__(self, seq: int, seed: int = 0) -> None:
        super().__init__([0.0] * seq)
        self.generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.embedding.weight.normal_(generator=self.generator)


class LinearLM(EmbeddedLM):
    """Token 0's logit is sum_i w_i . x_i: the contribution of token i is w_i . x_i."""

    def __init__(self, seq: int, seed: int = 0) -> None:
        super().__init__(seq, seed)
        self.slope = torch.randn(seq, DIM, generator=self.generator)

    def answer(self, embeds: Tensor) -> Tensor:
        first = (embeds * self.slope).sum((-2, -1))
        return torch.stack([first, torch.zeros_like(first)], dim=-1)


class PairLM(LinearLM):
    """Token 0's logit is the product of the contributions of the first two tokens: neither matters without the other."""

    def answer(self, embeds: Tensor) -> Tensor:
        parts = (embeds * self.slope).sum(-1)
        first = parts[:, 0] * parts[:, 1]
        return torch.stack([first, torch.zeros_like(first)], dim=-1)


class ActivationLM(LinearLM):
    """Token 0's logit is sum_h v_h f(b_h + sum_i u_h . x_i), f an activation module: one hidden layer."""

    def __init__(self, seq: int, activation: nn.Module, hidden: int = 6) -> None:
        super().__init__(seq)
        self.activation = activation
        self.inward = torch.randn(hidden, seq, DIM, generator=self.generator) / 4
        self.outward, self.offset = torch.randn(2, hidden, generator=self.generator)

    def hidden(self, embeds: Tensor) -> Tensor:
        return torch.einsum("rsd,hsd->rh", embeds, self.inward) + self.offset

    def answer(self, embeds: Tensor) -> Tensor:
        first = self.activation(self.hidden(embeds)) @ self.outward
        return torch.stack([first, torch.zeros_like(first)], dim=-1)
