"""Greedy continuation of a prompt."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import NonFiniteError
from noiser.lm.forward import call_model
from noiser.lm.kv_cache import new_cache
from noiser.lm.rotary import length_class


def greedy(model: Any, ids: Sequence[int], count: int, end_ids: set[int | None], device: torch.device) -> Iterator[tuple[int, int]]:
    """The most probable next token, again and again: each token, and how many tokens went through the model for it.

    It ends after `count` tokens, or after one of `end_ids`. A tie goes to the lowest id. Raises NonFiniteError if a logit is NaN or
    infinite. The keys and values of the tokens before are kept, except by a model that keeps more than these, and by one whose rotary
    frequencies depend on the length: there the whole sequence runs for each token.
    """
    config = model.config.get_text_config()
    alike = length_class(config, len(ids)) == length_class(config, len(ids) + count)
    cache = new_cache(model) if alike else None
    options: dict[str, Any] = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    embed: Callable[[Tensor], Tensor] = model.get_input_embeddings()
    sequence, seen = list(ids), 0
    for _ in range(count):
        new = torch.tensor(sequence[seen:], device=device)
        logits: Float[Tensor, " vocab"]
        logits = call_model(model, inputs_embeds=embed(new)[None].clone(), logits_to_keep=1, **options).logits[0, -1].float()
        if not logits.isfinite().all():
            raise NonFiniteError("the model's logits hold NaN or infinity: it cannot continue this prompt")
        token = int(logits.argmax())
        seen = 0 if cache is None else len(sequence)
        sequence.append(token)
        yield token, len(new)
        if token in end_ids:
            return
