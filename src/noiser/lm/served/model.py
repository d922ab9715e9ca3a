"""A LanguageModel behind vLLM's server: rows are completions with prompt embeddings, and vLLM batches them as it likes."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, stack

from noiser.errors import ModelError, ModelFailedError, NonFiniteError, OptionError, PromptError
from noiser.lm.checkpoint import first_line
from noiser.lm.forward import LAYOUTS, Layout
from noiser.lm.kv_cache import CleanRun
from noiser.lm.model import LanguageModel, TokenCounter
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.lm.requests import ForwardRequest, ForwardResult
from noiser.lm.rotary import most_tokens
from noiser.lm.served import trial
from noiser.lm.served.address import Address
from noiser.lm.served.client import Row, VllmClient
from noiser.lm.served.completions import WHOLE, Ask, Distribution
from noiser.lm.served.rows import RowReader
from noiser.lm.served.table import EmbeddingTable
from noiser.lm.tokenizer import Tokens
from noiser.lm.trial import TRIAL_TOKENS
from noiser.registry import Method
from noiser.text.prompt import Prompt

WITHOUT_GRADIENT = ("perturbation", "control")
"""Families of methods that need nothing but the model's answers."""


class ServedModel(LanguageModel):
    """A model that runs in vLLM's server, with its tokenizer and its embedding table here.

    Nothing is sent before the first row. Then the server is tried once, see `noiser.lm.served.trial`. `client.counts` says what was
    sent. Methods that need gradients, attention weights or the model itself raise OptionError before anything is sent.
    """

    def __init__(  # the parts of a model that runs here do not exist, so the base's own is not called
        self,
        address: Address,
        table: EmbeddingTable,
        tokenizer: Any,
        config: Any,
        *,
        token_budget: int | None = None,
        max_connections: int = 8,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.name, self.revision = tokenizer, address.model, table.revision
        self.warnings = ()
        self.device, self.devices, self.offloaded = torch.device("cpu"), (torch.device("cpu"),), False
        vocab = len(table.weight)
        self.tokens = Tokens(tokenizer, most_tokens(config.get_text_config()), vocab, template_args)
        self.token_counter = TokenCounter()
        self.client = VllmClient(address, vocab, max_connections=max_connections, max_tokens=token_budget)
        self._table, self._config, self._callback = table, config, None
        self._longest: int | None = None
        self._factor: float | None = None
        """What the server wants embeddings multiplied by. None before the trial."""

    def __repr__(self) -> str:
        return f"ServedModel({self.name!r}, at {self.client.address.url!r}, revision={self.revision!r})"

    @property
    def model(self) -> Any:  # type: ignore[override]
        """Raises ModelError: there is none here."""
        raise ModelError(f"{self.name} runs behind a server, and this needs the model itself: load it here (--model FOLDER or a hub id)")

    @property
    def width(self) -> int:
        """The number of elements of one token's embedding."""
        return self._table.weight.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers that are sent."""
        return self._table.dtype

    def check_method(self, method: Method) -> None:
        """Raises OptionError for a method that needs more than a server gives."""
        if method.family not in WITHOUT_GRADIENT:
            raise OptionError(
                f"{method.name} needs the model's gradients, attention or code, and {self.name} runs behind a server, which gives "
                "probabilities only: use noiser, occlusion, lime or shapley"
            )

    def failure(self, step: str, error: Exception) -> ModelFailedError:
        """The error for whatever went wrong at this step."""
        return ModelFailedError(f"{self.name} fails {step}: {type(error).__name__}: {first_line(error)}")

    def embeddings(self, token_ids: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """The output of the model's embedding module for these tokens."""
        return self._table.embeddings(token_ids)

    def layout(self, prompt: Prompt) -> tuple[Layout, str]:  # noqa: ARG002  (the server has one for all prompts)
        """Rows are sent as whole prompts."""
        return LAYOUTS["full"], "the server batches rows, and keeps what prefixes it likes"

    def forward(self, requests: Sequence[ForwardRequest]) -> list[list[CleanRun]]:
        """Run each sequence once, for the whole distribution at each of its ends. Clean runs have no gradient."""
        if any(request.attention_reducer is not None for request in requests):
            raise OptionError(f"attention weights stay in the server that runs {self.name}: use noiser, occlusion, lime or shapley")
        factor = self._ready(max(len(request.prompt) for request in requests))
        embeds = [self.embeddings(request.prompt.input_ids) for request in requests]
        ends = [(index, end) for index, request in enumerate(requests) for end in request.ends]
        rows = [Row(Ask(top=WHOLE), end + 1, lambda index=index, end=end: embeds[index][: end + 1] * factor) for index, end in ends]
        found: dict[int, Distribution] = {}
        with closing(self.client.answer(rows)) as answers:
            for row, distribution in answers:
                found[row] = distribution
                self._count(rows[row].tokens, 0)
        logits = iter(found[row].logits(self.client.vocab) for row in range(len(rows)))
        return [
            ForwardResult(
                request, embeds[index], stack([next(logits) for _ in request.ends]), (), {}, None, lambda _seq: "full", lambda _seq: 0
            ).clean_runs()
            for index, request in enumerate(requests)
        ]

    def generate(self, prompt: Prompt, count: int) -> tuple[int, ...]:
        """The greedy continuation: `count` tokens, or fewer if the model ends its answer. The end token is included."""
        self._ready(len(prompt) + count - 1)
        end = self.tokenizer.eos_token_id
        ids = self.client.continuation(prompt.input_ids, count, [] if end is None else [end])
        if not ids or max(ids) >= self.client.vocab:
            raise NonFiniteError(f"{self.name} generates no token of the table")
        self._count(len(prompt) + len(ids) - 1, 0)
        return ids

    def run_perturbed(self, perturbed: Sequence[PerturbedRows]) -> list[Readout]:
        """Ask about all rows, and return their readouts in the same order.

        Raises OptionError if gradients or the logits themselves are needed.
        """
        longest = max((len(rows.clean.prompt) for rows in perturbed), default=0)
        return RowReader(self.client, self._ready(longest), self._count).readouts(perturbed)

    def batch_bytes(self, requested: Sequence[PerturbedRows]) -> int:  # noqa: ARG002
        """0: the rows take memory where the server is."""
        return 0

    def run_some(self, rows: PerturbedRows, count: int) -> int:
        """Ask about the first rows of many, to see how long they take. Returns their tokens."""
        reader = RowReader(self.client, self._ready(len(rows.clean.prompt)), self._count)
        return reader.ask_some(rows, count)

    def _ready(self, tokens: int) -> float:
        """Try the server before its first row. Returns the factor for embeddings. Raises PromptError if a row is too long for it."""
        if self._factor is None:
            ids = self._synthetic_ids(TRIAL_TOKENS, 0)
            self._longest = trial.check_name(self.client)
            self._factor, warning = trial.try_server(self.client, self._table, self._config, ids)
            self.warnings = (warning,) if warning else ()
            self._count_check(TRIAL_TOKENS)
        if self._longest is not None and tokens > self._longest:
            raise PromptError(
                f"the prompt has {tokens:,} tokens and the server takes {self._longest:,}: shorten it, or raise --max-model-len"
            )
        return self._factor

    def _count(self, tokens: int, remaining: int) -> None:
        self.token_counter.forward_tokens += tokens
        self._report(remaining)
