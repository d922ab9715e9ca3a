"""A trial of a server: is it the model of the table, in which unit does it take embeddings, and does it return what it is asked for?"""

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor

from noiser.errors import ModelError
from noiser.lm.served.client import Row, VllmClient
from noiser.lm.served.completions import WHOLE, Ask, Distribution
from noiser.lm.served.table import EmbeddingTable

TOLERANCE = 0.05
"""The largest difference between two distributions that should be the same, as a share of the probability: rounding in bfloat16."""
CLOSE = 1e-3
"""A larger difference is noted: the server computes with fewer digits, or has other weights than the table's."""
COMPARED = 100
"""The most probable tokens, in which distributions are compared."""
FACTORS = ("embedding_multiplier", "scale_emb", "embed_scale")
"""Names in configurations for a factor of the embeddings that some servers apply outside of what they take."""


def try_server(client: VllmClient, table: EmbeddingTable, config: Any, ids: list[int]) -> tuple[float, str]:
    """The factor that the server wants embeddings multiplied by, and a warning if it computes noticeably differently. `ids`: some tokens.

    The server runs the tokens by their ids, and their embeddings times each factor that some family has. Raises ModelError, with the
    flag to start it with, if it does not take embeddings or does not return all log-probabilities, and if no factor gives the same
    distribution: then it has another model than the table's.
    """
    by_ids = _checked(client.from_ids(ids, Ask(top=WHOLE)))
    likely = Ask(ids=tuple(by_ids.topk(min(COMPARED, len(by_ids))).indices.tolist()))
    embeds = table.embeddings(ids)
    if embeds.shape[-1] == 0 or not embeds.isfinite().all():
        raise ModelError("the embedding table holds NaN or infinity: its file is damaged")
    factors = list(dict.fromkeys([1.0, *_factors(config, table)]))
    found = client.answer([Row(likely, len(ids), lambda factor=factor: embeds * factor) for factor in factors])
    differences = {factors[index]: _difference(by_ids, likely, distribution) for index, distribution in found}
    factor = min(differences, key=differences.__getitem__)
    if not differences[factor] <= TOLERANCE:
        raise ModelError(
            f"{client.address.model} predicts differently from the embeddings of this table than from the same tokens (by "
            f"{differences[factor]:.2g} of the probability): --tokenizer has to be the model that the server runs"
        )
    _check_forced(client, embeds * factor, by_ids)
    if differences[factor] <= CLOSE:
        return factor, ""
    return factor, (
        f"the server predicts slightly differently from embeddings than from tokens (by {differences[factor]:.1g} of the probability): it "
        "computes with few digits, or its weights are not quite those of --tokenizer"
    )


def check_name(client: VllmClient) -> int | None:
    """The longest row that the server takes: its context without the token that it has to generate. None if it does not say.

    Raises ModelError if the server has no model of this name, and what `VllmClient.models` raises.
    """
    lengths = {model["id"]: model.get("max_model_len") for model in client.models()}
    if client.address.model not in lengths:
        raise ModelError(
            f"the server at {client.address.url} has {', '.join(lengths) or 'no model'}, and not {client.address.model}: end the address "
            "with one of its names"
        )
    length = lengths[client.address.model]
    return length - 1 if isinstance(length, int) and length > 1 else None


def _factors(config: Any, table: EmbeddingTable) -> list[float]:
    text = config.get_text_config()
    named = [getattr(text, name, None) for name in FACTORS]
    known = [float(value) for value in named if isinstance(value, int | float) and value > 0]
    root = math.sqrt(table.weight.shape[1])
    return [factor for value in (*known, root, table.scale) if value != 1 for factor in (value, 1 / value)]


def _checked(distribution: Distribution) -> Float[Tensor, " vocab"]:
    """All probabilities. Raises ModelError if they are no probabilities."""
    assert distribution.whole is not None
    total = float(distribution.whole.double().logsumexp(0))
    if math.isnan(total) or abs(total) > CLOSE:
        raise ModelError(
            f"the server's log-probabilities add up to e^{total:.3g}, not to 1: start vLLM with --logprobs-mode raw_logprobs, its default"
        )
    return distribution.whole.double().exp()


def _difference(by_ids: Float[Tensor, " vocab"], compared: Ask, found: Distribution) -> float:
    """Half the sum of the differences in probability, over the tokens that are most probable after the ids."""
    gap = sum(abs(float(by_ids[token]) - math.exp(found.logprobs[token])) for token in compared.ids) / 2
    return math.inf if math.isnan(gap) else gap


def _check_forced(client: VllmClient, embeds: Float[Tensor, "tokens dim"], by_ids: Float[Tensor, " vocab"]) -> None:
    """A token that has to come is returned with its probability under the model, and not with 1."""
    token = int(by_ids.argsort()[len(by_ids) // 2])
    ((_, found),) = client.answer([Row(Ask((token,), 2), len(embeds), lambda: embeds)])
    if math.exp(found.logprobs[token]) > 0.5:
        raise ModelError(
            "the server returns log-probabilities after its sampling: start vLLM with --logprobs-mode raw_logprobs, its default"
        )
