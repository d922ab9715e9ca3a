"""The engine: the only code with device state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from noiser.errors import DeviceMemoryError, ModelError, ModelFailedError
from noiser.lm.adapter import model_name, model_revision, unwrap
from noiser.lm.ahead import run_with_rows
from noiser.lm.attention import reduce_attention
from noiser.lm.batching import BatchSums, Collector, batches, run_batch
from noiser.lm.checkpoint import check_architecture
from noiser.lm.devices import Budget, check_gradient, placement_of, plan_budget, plan_gradient_budget, unify_memory_errors, why_no_gradient
from noiser.lm.forward import LAYOUTS, Layout, failure, layout_of, run_packed_prompts, run_prompt
from noiser.lm.generation import greedy
from noiser.lm.kv_cache import CleanRun, LayoutName, read_cache, split_layers
from noiser.lm.layout_check import LayoutCheck
from noiser.lm.memory import check_clean, check_rows, fits, gradient_bytes, rows_bytes
from noiser.lm.perturbation import Batch, PerturbedRows, Readout
from noiser.lm.quantity import check_differentiable
from noiser.lm.quantized import check_quantized
from noiser.lm.requests import ForwardRequest, ForwardResult
from noiser.lm.restore import evaluation_mode
from noiser.lm.rotary import length_class, most_tokens
from noiser.lm.tokenizer import Source, Tokens, prompt_warnings, split_sources
from noiser.lm.trial import TRIAL_TOKENS, check_decoder, check_signature, why_not_differentiable
from noiser.registry import Method
from noiser.text.prompt import Prompt


@dataclass
class TokenCounter:
    """Tokens that went through the model since `LanguageModel` wrapped it."""

    forward_tokens: int = 0
    backward_tokens: int = 0
    check_tokens: int = 0
    """Tokens of the checks of the model, which run once. They are no attribution's cost."""


_TRIED: WeakSet[Any] = WeakSet()
"""The models in memory that passed their trial."""

ProgressCallback = Callable[[int, int], None]
"""Callback(done, remaining), in forward tokens. `remaining` counts the current request only."""


class LanguageModel:
    """A Hugging Face decoder with its tokenizer, and the engine that runs perturbed rows.

    Neither the model nor the tokenizer is changed. `token_budget` limits the tokens that go through the model at once; by
    default it is derived from the free memory. `prefix=False` computes every row as a whole prompt: slower, with the same
    results. `template_args` are what the tokenizer's chat template reads besides the messages.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "",
        revision: str = "",
        token_budget: int | None = None,
        prefix: bool = True,
        template_args: Mapping[str, Any] | None = None,
    ) -> None:
        model = unwrap(model)
        check_architecture(model.config, type(model).__name__)
        check_signature(model)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or model_name(model)
        self.revision = revision or model_revision(model)
        self.warnings: tuple[str, ...] = check_quantized(model)
        """Warnings about the model that belong to each of its results."""
        placement = placement_of(model)
        self.device: torch.device = placement.home
        """Where the model's inputs are, and where its outputs are moved to."""
        self.devices: tuple[torch.device, ...] = placement.devices
        """All devices that compute. `device` is the first."""
        self.offloaded: bool = bool(placement.visiting)
        """Whether some weights wait elsewhere (`device_map`). They are on torch's `meta` device between calls."""
        limit = most_tokens(model.config.get_text_config())
        self.tokens = Tokens(tokenizer, limit, len(model.get_input_embeddings().weight), template_args)
        self.budget = plan_budget(model, placement, token_budget)
        self.gradient_budget = plan_gradient_budget(model, placement, self.budget, token_budget)
        self._no_gradient = why_no_gradient(placement)
        self.token_counter = TokenCounter()
        self._callback: ProgressCallback | None = None
        self._layout_check = LayoutCheck(
            model,
            self._synthetic_ids,
            limit,
            self.budget,
            self.device,
            identity="" if self.revision == "unknown" else f"{self.name} {self.revision}",
            reason="" if prefix else "asked for",
            on_tokens=self._count_check,
        )

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, revision={self.revision!r}, device={str(self.device)!r}, dtype={self.model.dtype})"

    def prompt(self, source: Source, spans: Any = None, documents: Any = None) -> Prompt:
        """Tokenise text or a chat, or take ids as they are; see `Tokens.prompt`. It has the warnings of `prompt_warnings`."""
        source, spans, documents = split_sources(source, spans, documents)
        prompt = self.tokens.prompt(source, spans, documents)
        asked = [{"role": "user", "content": source}] if prompt.turns and isinstance(source, str) else source
        found = tuple(prompt_warnings(self.tokens, asked, prompt))
        return replace(prompt, warnings=(*prompt.warnings, *found)) if found else prompt

    def embeddings(self, token_ids: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """The output of the model's embedding module for these tokens."""
        with evaluation_mode(self.model):
            return self.model.get_input_embeddings()(torch.tensor(token_ids, device=self.device))

    def to_device(self, tensor: Tensor) -> Tensor:
        """Move a tensor to `device`. On Apple's GPU, which has no float64, such a tensor stays on the CPU."""
        return tensor if tensor.dtype == torch.float64 and self.device.type == "mps" else tensor.to(self.device)

    @property
    def width(self) -> int:
        """The number of elements of one token's embedding."""
        return self.model.get_input_embeddings().weight.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the numbers that the model computes with."""
        return self.model.dtype

    def check_method(self, method: Method) -> None:
        """Raises OptionError for a method that cannot run on this model, before anything runs. Here every method can be tried."""

    def failure(self, step: str, error: Exception) -> ModelFailedError:
        """The error for whatever the model raised at this step."""
        return failure(self.model, step, error)

    def layout(self, prompt: Prompt) -> tuple[Layout, str]:
        """The layout for rows of this prompt, and the reason if it is the full one. A short check of the model may run first."""
        name, reason = self._layout_check.layout(len(prompt))
        return LAYOUTS[name], reason

    def _choose_layout(self, seq: int) -> LayoutName:
        return self._layout_check.layout(seq)[0]

    def _length_class(self, seq: int) -> int:
        return length_class(self.model.config.get_text_config(), seq)

    def _synthetic_ids(self, length: int, seed: int) -> list[int]:
        """Ids of ordinary tokens, drawn at random."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(self.tokens.size, (20 * length + 100,), generator=generator).tolist()
        ordinary = [token for token in drawn if not self.tokens.is_special(token)]
        return list(islice(cycle(ordinary or drawn), length))

    def _count_check(self, tokens: int) -> None:
        self.token_counter.check_tokens += tokens

    def clean(self, prompts: Sequence[Prompt]) -> list[CleanRun]:
        """Run each prompt unperturbed. Short prompts share forward passes."""
        return [clean for (clean,) in self.forward([ForwardRequest(prompt, (len(prompt) - 1,)) for prompt in prompts])]

    def forward(self, requests: Sequence[ForwardRequest]) -> list[list[CleanRun]]:
        """Run each sequence once. The answer to a request has one clean run for each of its ends, truncated after that end."""
        results: list[ForwardResult] = []
        parts = [request.split(self._length_class) for request in requests]
        with evaluation_mode(self.model):
            self._try_model()
            together = self._forward_ahead(parts[0][0]) if len(parts) == len(parts[0]) == 1 else None
            if together is not None:
                self._report()
                return [together.clean_runs()]
            for group in self._forward_groups([part for split in parts for part in split]):
                results += self._forward_that_fits(group, self._has_room(group, gradient=group[0].scalars is not None))
                self._report()
        remaining = iter(results)
        return [[run for result in islice(remaining, len(split)) for run in result.clean_runs()] for split in parts]

    def generate(self, prompt: Prompt, count: int) -> tuple[int, ...]:
        """The greedy continuation: `count` tokens, or fewer if the model ends its answer. The end token is included.

        There is no sampling and no penalty, whatever the model's generation settings say. A tie goes to the lowest id.
        Raises NonFiniteError if a logit is NaN or infinite.
        """
        generation_config = getattr(self.model, "generation_config", None)
        end_ids = {self.tokenizer.eos_token_id} | set(_as_list(getattr(generation_config, "eos_token_id", None)))
        ids: list[int] = []
        with evaluation_mode(self.model), unify_memory_errors():
            for token, tokens in greedy(self.model, prompt.input_ids, count, end_ids, self.device):
                self.token_counter.forward_tokens += tokens
                ids.append(token)
                self._report()
        return tuple(ids)

    @contextmanager
    def progress_callback(self, callback: ProgressCallback) -> Iterator[None]:
        """Callback(done, remaining), in forward tokens.

        Inside the block, `callback` is called after every batch, in the thread that runs the model. An exception that it
        raises (`Stopped`) ends the work and reaches the caller. The model is left unchanged.
        """
        start, previous = self.token_counter.forward_tokens, self._callback
        self._callback = lambda done, remaining: callback(done - start, remaining)
        try:
            yield
        finally:
            self._callback = previous

    def _report(self, remaining: int = 0) -> None:
        if self._callback is not None:
            self._callback(self.token_counter.forward_tokens, remaining)

    def run_perturbed(self, perturbed: Sequence[PerturbedRows]) -> list[Readout]:
        """Run all rows in batches that fit the budget, and return their readouts in the same order.

        Raises ModelError if gradients are needed and too much of the model is offloaded.
        """
        if any(rows.weights is not None for rows in perturbed):
            check_gradient(self._no_gradient)
        check_rows(self.model, perturbed, self.device)
        collector = Collector(len(perturbed))
        remaining = sum(layout_of(rows).tokens(rows) * rows.rows for rows in perturbed) if self._callback else 0
        with evaluation_mode(self.model):
            for batch in batches(perturbed, self._budget_of, self._layout_check.capacity):
                before = self.token_counter.forward_tokens
                self._run_batch(batch, collector)
                remaining -= self.token_counter.forward_tokens - before
                self._report(max(0, remaining))
        return collector.readouts()

    def _has_room(self, group: Sequence[ForwardRequest], *, gradient: bool) -> bool:
        """Whether the group can run with a gradient, if one is wanted. Raises DeviceMemoryError if it cannot run at all."""
        tokens = sum(len(request.prompt) for request in group)
        check_clean(self.model, tokens, self.device, attention=group[0].attention_reducer is not None)
        return gradient and not self._no_gradient and fits(gradient_bytes(self.model, tokens), self.device)

    def batch_bytes(self, requested: Sequence[PerturbedRows]) -> int:
        """About how many bytes the largest batch of these rows takes here."""
        return rows_bytes(self.model, requested, self.budget, self.gradient_budget)

    def run_some(self, rows: PerturbedRows, count: int) -> int:
        """Run the first rows of many, to see how long they take. Returns the tokens that went through the model, there and back."""
        with evaluation_mode(self.model), unify_memory_errors():
            sums = run_batch(self.model, Batch((rows,), (0,), range(count)))
        return sum(sums.forward) + sum(sums.backward)

    def _budget_of(self, rows: PerturbedRows) -> Budget:
        return self.budget if rows.weights is None else self.gradient_budget

    def _run_batch(self, batch: Batch, collector: Collector, *, is_half: bool = False) -> None:
        """Run one batch. If it is out of memory, run its halves, down to a single row, and remember the size that fits."""
        sums: BatchSums | None = None
        with suppress(DeviceMemoryError), unify_memory_errors():
            sums = run_batch(self.model, batch)
        halves = batch.halves()
        if sums is None:
            for half in halves or ():
                self._run_batch(half, collector, is_half=True)
            if halves is None:
                collector.fail(batch, "oom")
            return
        self.token_counter.forward_tokens += sum(sums.forward)
        self.token_counter.backward_tokens += sum(sums.backward)
        if is_half:
            self._budget_of(batch.members[0]).learn(sum(sums.forward), len(batch.rows) * batch.offsets()[-1])
        if halves and len(batch.members) > 1 and not sums.finite.all():
            for half in halves:  # NaN spreads through the attention of a shared sequence: find the member that caused it
                self._run_batch(half, collector)
            return
        collector.add(batch, sums)

    def _forward_groups(self, requests: Sequence[ForwardRequest]) -> Iterator[list[ForwardRequest]]:
        """Requests that share a pass, up to the budget's length and the longest packing that was checked."""
        group: list[ForwardRequest] = []
        for request in requests:
            if group and not self._may_join(group, request):
                yield group
                group = []
            group.append(request)
        if group:
            yield group

    def _may_join(self, group: Sequence[ForwardRequest], request: ForwardRequest) -> bool:
        first, lengths = group[0], [len(other.prompt) for other in (*group, request)]
        alike = (request.scalars is None) == (first.scalars is None) and not (request.attention_reducer or first.attention_reducer)
        same_class = self._length_class(lengths[0]) == self._length_class(lengths[-1])
        if not alike or not same_class or sum(lengths) > self.budget.length:
            return False
        return sum(lengths) <= self._layout_check.capacity(max(lengths), sum(lengths))

    def _forward_that_fits(self, group: list[ForwardRequest], gradient: bool) -> list[ForwardResult]:
        """The group in one pass. One by one if memory is short or one prompt's NaN spread; without gradient if need be."""
        try:
            with suppress(DeviceMemoryError), unify_memory_errors():
                results = self._forward(group, gradient)
                if len(group) == 1 or all(result.logits.isfinite().all() for result in results):
                    return results
        except Exception:  # reformers assert, other models change what a gradient needs in place
            ids = torch.tensor(self._synthetic_ids(len(group[0].prompt), 0), device=self.device)
            self._no_gradient = why_not_differentiable(self.model, ids) if gradient else ""
            if not self._no_gradient:
                raise
            return self._forward_that_fits(group, gradient=False)
        if len(group) > 1:
            return [result for request in group for result in self._forward_that_fits([request], gradient)]
        with unify_memory_errors():
            return self._forward(group, gradient=False)

    def _forward_ahead(self, request: ForwardRequest) -> ForwardResult | None:
        """The sequence and its rows ahead in one pass, without keys and values for other rows. None if there are none, or if it has to
        be tried without them."""
        ahead, seq = request.ahead, len(request.prompt)
        if ahead is None or self._no_gradient or seq * (1 + ahead.perturbation.rows) > self.gradient_budget.tokens:
            return None
        ids = torch.tensor(request.prompt.input_ids, device=self.device)
        embeds = self.model.get_input_embeddings()(ids).detach()
        try:
            with unify_memory_errors():
                logits, read = run_with_rows(self.model, embeds, ahead)
        except DeviceMemoryError:
            return None
        except Exception:
            self._no_gradient = why_not_differentiable(self.model, ids)
            if not self._no_gradient:
                raise
            return None
        self.token_counter.forward_tokens += seq * (1 + ahead.perturbation.rows)
        self.token_counter.backward_tokens += seq * ahead.perturbation.rows
        return ForwardResult(request, embeds, logits, (), {}, None, lambda _seq: "full", self._length_class, read)

    def _forward(self, group: list[ForwardRequest], gradient: bool) -> list[ForwardResult]:
        ids = [torch.tensor(request.prompt.input_ids, device=self.device) for request in group]
        with torch.set_grad_enabled(gradient):
            embeds = [self.model.get_input_embeddings()(tensor).detach().requires_grad_(gradient) for tensor in ids]
            reducer = group[0].attention_reducer
            with reduce_attention(self.model, len(embeds[0]), reducer) if reducer else nullcontext() as attention:
                ends = [request.ends for request in group]
                several = len(group) > 1
                kept, cache = run_packed_prompts(self.model, embeds, ends) if several else run_prompt(self.model, embeds[0], ends[0])
            logits = kept.float().split([len(request.ends) for request in group])
            gradients = self._gradients(group, logits, embeds) if gradient else [{} for _ in group]
        self.token_counter.forward_tokens += sum(map(len, ids))
        layers = split_layers(read_cache(cache), [len(tensor) for tensor in ids])
        parts = zip(group, embeds, logits, layers, gradients, strict=True)
        return [
            ForwardResult(
                request, e.detach(), at_ends.detach(), kv, g, attention and attention.value, self._choose_layout, self._length_class
            )
            for request, e, at_ends, kv, g in parts
        ]

    def _gradients(self, group: list[ForwardRequest], logits: Sequence[Tensor], embeds: list[Tensor]) -> list[dict[int, Tensor]]:
        """The gradient of each request's scalars. One backward pass takes one scalar of each request."""
        waiting = [dict(request.scalars(tensor)) if request.scalars else {} for request, tensor in zip(group, logits, strict=True)]
        gradients: list[dict[int, Tensor]] = [{} for _ in group]
        while any(waiting):
            indices = [index for index, scalars in enumerate(waiting) if scalars]
            taken = [(index, *waiting[index].popitem()) for index in indices]
            total = torch.stack([scalar for _, _, scalar in taken]).sum()
            check_differentiable(total)
            inputs = [embeds[index] for index in indices]
            passed = torch.autograd.grad(total, inputs, retain_graph=any(waiting))
            for (index, end, _), gradient in zip(taken, passed, strict=True):
                gradients[index][end] = gradient.float()
            self.token_counter.backward_tokens += sum(map(len, inputs))
        return gradients

    def _try_model(self) -> None:
        """Try the model once on a few synthetic tokens, see `check_decoder`."""
        if self.model not in _TRIED:
            check_decoder(self.model, torch.tensor(self._synthetic_ids(TRIAL_TOKENS, 0), device=self.device))
            self._count_check(4 * TRIAL_TOKENS)
            _TRIED.add(self.model)


def check_language_model(lm: Any) -> None:
    """Raises ModelError for anything but a LanguageModel, such as a model of transformers."""
    if not isinstance(lm, LanguageModel):
        raise ModelError(f"this wants a model that noiser has loaded: lm = noiser.load(model, tokenizer); got {type(lm).__name__}")


def _as_list(ids: Any) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
