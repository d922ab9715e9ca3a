"""The engine: the only code with device state."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from noiser.errors import DeviceMemoryError
from noiser.lm.batching import Collector, batches, sum_rows
from noiser.lm.check import check_embeddings, check_signature, choose_layout
from noiser.lm.layout import Full, Layout, exceeds_window, packed_clean
from noiser.lm.memory import memory_told_apart, plan_budget
from noiser.lm.prefix import Clean, read_cache, split_layers
from noiser.lm.probe import Batch, Probe, Reading
from noiser.lm.tokens import Source, Tokens
from noiser.types import Prompt, Target


@dataclass
class Spent:
    """Tokens that went through the model since it was wrapped, counted where they go through."""

    forward_tokens: int = 0
    backward_tokens: int = 0


class LanguageModel:
    """A Hugging Face decoder with its tokenizer, both left exactly as found, and the engine that runs perturbed rows.

    `token_budget` sets how many tokens go through the model at once (found from the free memory otherwise);
    `prefix=False` computes every row whole, which is slower and gives the same results.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, name: str = "", revision: str = "", token_budget: int | None = None, prefix: bool = True
    ) -> None:
        check_signature(model)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name or getattr(model.config, "_name_or_path", "") or type(model).__name__
        self.revision = revision or getattr(model.config, "_commit_hash", None) or "unknown"
        self.device: torch.device = model.get_input_embeddings().weight.device
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.tokens = Tokens(tokenizer, limit, len(model.get_input_embeddings().weight))
        self.budget = plan_budget(model, self.device, token_budget)
        self.spent = Spent()
        self._layouts: dict[bool, tuple[Layout, str]] = {} if prefix else dict.fromkeys((False, True), (Full(), "asked for"))
        self._embeddings_checked = False

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, revision={self.revision!r}, device={str(self.device)!r}, dtype={self.model.dtype})"

    def prompt(self, source: Source) -> Prompt:
        """Tokenise text or a chat, or take ids as they are; see `Tokens.prompt`."""
        return self.tokens.prompt(source)

    def target(self, clean: Clean, target: str | int | None = None) -> Target:
        """The one-token target to explain: the model's own prediction, or the given text or id."""
        token = clean.prediction if target is None else self.tokens.target(target)
        prob = clean.probs[token]
        rank = int((clean.probs > prob).sum() + (clean.probs[:token] == prob).sum())
        return Target((token,), (self.tokens.surface(token),), float(prob), rank)

    def place(self, tensor: Tensor) -> Tensor:
        """The tensor on the model's device; float64 stays on the CPU where the device has none (Apple's GPU)."""
        return tensor if tensor.dtype == torch.float64 and self.device.type == "mps" else tensor.to(self.device)

    def layout(self, prompt: Prompt) -> tuple[Layout, str]:
        """The layout that serves this prompt, and why where that is the full one; known once such a prompt had its clean run."""
        return self._layouts.get(self._windowed(prompt), (Full(), "the prompt is too short to tell"))

    def clean(self, prompts: Sequence[Prompt], *, gradient: bool = False) -> list[Clean]:
        """Run each prompt unperturbed; short ones share forward passes. `gradient` takes that of the top-two margin along."""
        results: list[Clean] = []
        with quiet(self.model):
            for group in self._clean_groups(prompts):
                results += self._clean_that_fits(group, gradient)
                self._inspect(results[-1])
        return results

    def read(self, probes: Sequence[Probe]) -> list[Reading]:
        """Run every probe, batched by the budget, and read each one's mean distribution. The order is the caller's."""
        collector = Collector(len(probes))
        with quiet(self.model):
            for batch in batches(probes, lambda probe: self.layout(probe.clean.prompt)[0], self.budget):
                self._run(batch, collector)
        return collector.readings()

    def _run(self, batch: Batch, collector: Collector, *, squeezed: bool = False) -> None:
        """One batch. On out-of-memory its halves, down to a single row, and the budget remembers what did fit."""
        layout = self.layout(batch.probes[0].clean.prompt)[0]
        tokens = [layout.tokens(probe) * len(batch.rows) for probe in batch.probes]
        sums = None
        with suppress(DeviceMemoryError), memory_told_apart():
            sums = sum_rows(layout.logits(self.model, batch), batch, tokens)
        halves = batch.halves()
        if sums is None:
            for half in halves or ():
                self._run(half, collector, squeezed=True)
            if halves is None:
                collector.fail(batch, "oom")
            return
        self.spent.forward_tokens += sum(tokens)
        if squeezed:
            self.budget.learn(sum(tokens), len(batch.rows) * len(batch.probes))
        if halves and len(batch.probes) > 1 and not sums.finite.all():
            for half in halves:  # NaN spreads through the attention of a shared sequence: find out whose it is
                self._run(half, collector)
            return
        collector.add(batch, sums)

    def _windowed(self, prompt: Prompt) -> bool:
        return exceeds_window(self.model.config.get_text_config(), len(prompt))

    def _clean_groups(self, prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
        """Prompts that run in one pass: alone until the packed layout has proved itself, then up to the budget's length."""
        group: list[Prompt] = []
        for prompt in prompts:
            packs = self.layout(prompt)[0].packs and (not group or self.layout(group[0])[0].packs)
            if group and not (packs and sum(map(len, group)) + len(prompt) <= self.budget.length):
                yield group
                group = []
            group.append(prompt)
        if group:
            yield group

    def _clean_that_fits(self, group: list[Prompt], gradient: bool) -> list[Clean]:
        """The group's clean runs; one by one where memory is short or one's NaN spread; without the gradient if need be."""
        with suppress(DeviceMemoryError), memory_told_apart():
            cleans = self._clean(group, gradient)
            if len(group) == 1 or all(clean.probs.isfinite().all() for clean in cleans):
                return cleans
        if len(group) > 1:
            return [clean for prompt in group for clean in self._clean_that_fits([prompt], gradient)]
        with memory_told_apart():
            return self._clean(group, gradient=False)

    def _clean(self, group: list[Prompt], gradient: bool) -> list[Clean]:
        ids = [torch.tensor(prompt.input_ids, device=self.device) for prompt in group]
        with torch.set_grad_enabled(gradient):
            embeds = [self.model.get_input_embeddings()(each).detach().requires_grad_(gradient) for each in ids]
            logits, cache = self._clean_logits(embeds)
            gradients = self._margin_gradients(logits, embeds) if gradient else [None] * len(group)
        self.spent.forward_tokens += sum(map(len, group))
        probs = logits.detach().float().softmax(-1)
        layers = split_layers(read_cache(cache), [len(prompt) for prompt in group])
        parts = zip(group, embeds, probs, layers, gradients, strict=True)
        return [Clean(prompt, e.detach(), p, kv, g) for prompt, e, p, kv, g in parts]

    def _clean_logits(self, embeds: list[Tensor]) -> tuple[Float[Tensor, "prompts vocab"], DynamicCache]:
        if len(embeds) > 1:
            return packed_clean(self.model, embeds)
        cache = DynamicCache()
        return self.model(inputs_embeds=embeds[0][None], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1], cache

    def _margin_gradients(self, logits: Float[Tensor, "prompts vocab"], embeds: list[Tensor]) -> list[Tensor]:
        top = logits.float().topk(2, dim=-1).values
        gradients = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), embeds)
        self.spent.backward_tokens += sum(map(len, embeds))
        return [gradient.float() for gradient in gradients]

    def _inspect(self, clean: Clean) -> None:
        """Once a model: do embeddings speak for ids? Once a model and window: does the packed layout hold?"""
        windowed = self._windowed(clean.prompt)
        with memory_told_apart():
            if not self._embeddings_checked:
                check_embeddings(self.model, torch.tensor(clean.prompt.input_ids, device=self.device), clean.probs)
                self._embeddings_checked = True
            if windowed not in self._layouts and len(clean.prompt) > 2:
                self._layouts[windowed] = choose_layout(self.model, clean)


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Evaluation mode and no gradients inside; each module's own mode restored after, whatever happens."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
