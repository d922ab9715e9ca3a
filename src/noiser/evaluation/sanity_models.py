"""Models built by hand, so that it is known what their predictions come from."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from noiser.errors import ModelError
from noiser.lm.model import LanguageModel
from noiser.rng import generator

WORDS, HIDDEN = 16, 64
QUERY = 15
"""The token that asks for a copy."""
PAYLOADS = range(8, 12)
"""Tokens that a query copies."""
CUE, OTHER_CUE = 12, 11
"""The token that decides by being there, and the one that has to be there too in a conjunction."""
YES, NO = 13, 14
"""What a shortcut answers with the cue, and without it."""
FILLERS = range(8)
FLAG, ASKS, WRITTEN = 16, 17, 32
"""Dimensions: whether a token can be copied, whether it asks; and from where on the answer is written."""
SLOW = HIDDEN // 2 - 1
"""The dimension that rotary position embeddings turn the least."""


def copy_circuit() -> LanguageModel:
    """One attention head: a query token at the end attends to whichever payload token came before, and says it again."""
    model = _silent()
    with torch.no_grad():
        layer: Any = model.model.layers[0].self_attn
        _embeddings(model)[list(PAYLOADS), FLAG] = 2.0
        _embeddings(model)[QUERY, ASKS] = 2.0
        layer.q_proj.weight[SLOW, ASKS] = layer.k_proj.weight[SLOW, FLAG] = 1.5
        for word in range(WORDS):
            layer.v_proj.weight[WRITTEN + word, word] = 1.0
            model.lm_head.weight[word, WRITTEN + word] = 1.5
        layer.o_proj.weight.copy_(torch.eye(HIDDEN))
    return LanguageModel(model, _tokenizer(), name="copy circuit")


def shortcut() -> LanguageModel:
    """Attention that looks at everything alike: the answer is YES if the cue stands anywhere, else NO."""
    model = _silent()
    with torch.no_grad():
        layer: Any = model.model.layers[0].self_attn
        _embeddings(model)[:, FLAG] = 1.0
        layer.v_proj.weight[WRITTEN, CUE] = 6.0
        layer.v_proj.weight[WRITTEN + 1, FLAG] = 0.5
        layer.o_proj.weight.copy_(torch.eye(HIDDEN))
        model.lm_head.weight[YES, WRITTEN] = model.lm_head.weight[NO, WRITTEN + 1] = 1.5
    return LanguageModel(model, _tokenizer(), name="lexical shortcut")


def conjunction() -> LanguageModel:
    """Attention that looks at everything alike, then a gate that multiplies: the answer is YES if both cues stand anywhere, else NO."""
    model = _silent()
    with torch.no_grad():
        layer: Any = model.model.layers[0]
        _embeddings(model)[:, FLAG] = 1.0
        layer.self_attn.v_proj.weight[WRITTEN + 2, CUE] = layer.self_attn.v_proj.weight[WRITTEN + 3, OTHER_CUE] = 6.0
        layer.self_attn.v_proj.weight[WRITTEN + 1, FLAG] = 0.5
        layer.self_attn.o_proj.weight.copy_(torch.eye(HIDDEN))
        layer.mlp.gate_proj.weight[0, WRITTEN + 2] = layer.mlp.up_proj.weight[0, WRITTEN + 3] = 1.0
        layer.mlp.down_proj.weight[WRITTEN, 0] = 1.0
        model.lm_head.weight[YES, WRITTEN] = model.lm_head.weight[NO, WRITTEN + 1] = 1.5
    return LanguageModel(model, _tokenizer(), name="conjunction")


def linear_model(weights: Sequence[float]) -> LanguageModel:
    """Two answers; the log-odds of the first are `sum_i weights[i] x_i . v`, where every x_i . v is 1."""
    return LanguageModel(_Linear(weights), _tokenizer(), name="linear model")


class _Linear(nn.Module):
    """The interface of a decoder, and one linear map of all embeddings behind it."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.config = LlamaConfig(vocab_size=WORDS, hidden_size=HIDDEN, num_attention_heads=1, max_position_embeddings=64)
        self.embedding = nn.Embedding.from_pretrained(torch.zeros(WORDS, HIDDEN))
        direction = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(0))
        self.direction = direction / direction.norm()
        self.weights = torch.tensor(weights)
        with torch.no_grad():
            self.embedding.weight.copy_(self.direction.expand(WORDS, -1))
        self.dtype = torch.float32

    def get_input_embeddings(self) -> nn.Embedding:
        """As a Hugging Face model has it."""
        return self.embedding

    def forward(
        self,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        past_key_values: Any = None,  # noqa: ARG002  (it keeps nothing)
        use_cache: Any = None,  # noqa: ARG002
        logits_to_keep: int = 0,
    ) -> SimpleNamespace:
        """The logits at the last position, or at all. A token behind those that have weights counts nothing."""
        embeds = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        length = embeds.shape[1]
        weights = nn.functional.pad(self.weights, (0, max(0, length - len(self.weights))))[:length]
        parts = (embeds @ self.direction) * weights
        first = (parts.sum(-1, keepdim=True) if logits_to_keep else parts.cumsum(-1))[..., None]
        others = torch.full((*first.shape[:2], WORDS - 2), -20.0)
        return SimpleNamespace(logits=torch.cat([first, torch.zeros_like(first), others], -1))


def _silent() -> LlamaForCausalLM:
    """A Llama of one layer and one head whose weights are zero, but for each word's own dimension of its embedding."""
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # the weights drawn at first are all replaced
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        _embeddings(model)[:, :WORDS] = torch.eye(WORDS)
    return model


def _embeddings(model: LlamaForCausalLM) -> Float[Tensor, "words hidden"]:
    return model.get_input_embeddings().weight  # type: ignore[return-value]  (transformers types it as a module of any kind)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(WORDS)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), unk_token="w0")  # noqa: S106


@dataclass(frozen=True, eq=False)
class KnownAnswer:
    """A prompt on a model built by hand, with the positions of the tokens that decide the prediction."""

    lm: LanguageModel
    ids: tuple[int, ...]
    causes: tuple[int, ...]


def known_answers(circuit: str, tries: int, seed: int) -> Iterator[KnownAnswer]:
    """Prompts on one of CIRCUITS, all different."""
    for trial in range(tries):
        yield CIRCUITS[circuit][1](generator(seed, circuit, trial))


def _copied(rng: np.random.Generator) -> KnownAnswer:
    ids, (position,) = _planted(rng, [int(rng.choice(list(PAYLOADS)))])
    return KnownAnswer(_built(copy_circuit), (*ids, QUERY), (position, len(ids)))


def _said_once(rng: np.random.Generator) -> KnownAnswer:
    return KnownAnswer(_built(shortcut), *_planted(rng, [CUE]))


def _said_twice(rng: np.random.Generator) -> KnownAnswer:
    return KnownAnswer(_built(shortcut), *_planted(rng, [CUE, CUE]))


def _two_needed(rng: np.random.Generator) -> KnownAnswer:
    return KnownAnswer(_built(conjunction), *_planted(rng, [CUE, OTHER_CUE]))


def _weighted(rng: np.random.Generator) -> KnownAnswer:
    weights = rng.permutation(0.25 * 1.6 ** np.arange(6))
    return KnownAnswer(linear_model(weights.tolist()), (0,) * 6, tuple(np.flatnonzero(weights > 1).tolist()))


def _planted(rng: np.random.Generator, cues: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Eight tokens, all fillers but the cues, and the positions of the cues."""
    ids = rng.choice(list(FILLERS), 8, replace=False)
    positions = rng.choice(7, len(cues), replace=False)
    ids[positions] = rng.permutation(cues)
    return tuple(ids.tolist()), tuple(positions.tolist())


@cache
def _built(make: Callable[[], LanguageModel]) -> LanguageModel:
    return make()


CIRCUITS: dict[str, tuple[str, Callable[[np.random.Generator], KnownAnswer]]] = {
    "copy": ("a head copies one token when the last one asks for it: these two", _copied),
    "shortcut": ("a cue decides", _said_once),
    "redundant": ("a cue stands twice, and once would do: both", _said_twice),
    "conjunction": ("two cues decide together: both", _two_needed),
    "linear": ("each token has a weight: the three largest", _weighted),
}
"""For each model built by hand which tokens decide, and how a prompt is made."""


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
