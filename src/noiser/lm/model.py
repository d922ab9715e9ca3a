"""The engine: the only code with device state."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.cache_utils import DynamicCache

from noiser.errors import DeviceMemoryError, NonFiniteError
from noiser.lm.attention import folding
from noiser.lm.batching import Collector, Sums, batches, run_batch
from noiser.lm.devices import Budget, check_gradient, placement_of, plan_budget, plan_gradient_budget, unify_memory_errors, why_no_gradient
from noiser.lm.forward import Full, Layout, check_embeddings, check_signature, choose_layout, exceeds_window, packed_clean
from noiser.lm.kv_cache import CleanRun, KeysValues, read_cache, split_layers
from noiser.lm.perturbation import Batch, PerturbedRows, Readout
from noiser.lm.quantity import check_slope
from noiser.lm.requests import ForwardRequest
from noiser.lm.tokenizer import Source, Tokens
from noiser.text.prompt import Prompt


@dataclass
class TokenCounter:
    """Tokens that went through the model since it was wrapped, counted where they go through."""

    forward_tokens: int = 0
    backward_tokens: int = 0


ProgressCallback = Callable[[int, int], None]
"""Called with token-forwards done, and with those that the request at hand is known to take yet."""


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
        placement = placement_of(model)
        self.device: torch.device = placement.home
        """Where what goes into the model is, and what comes out of it."""
        self.devices: tuple[torch.device, ...] = placement.devices
        """All that it computes on, that one first."""
        self.offloaded: bool = bool(placement.visiting)
        """Whether some weights wait elsewhere (`device_map`): they are on torch's `meta` device between calls."""
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.tokens = Tokens(tokenizer, limit, len(model.get_input_embeddings().weight))
        self.budget = plan_budget(model, placement, token_budget)
        self.gradient_budget = plan_gradient_budget(model, placement, self.budget, token_budget)
        self._no_gradient = why_no_gradient(placement)
        self.token_counter = TokenCounter()
        self._tell: ProgressCallback | None = None
        self._layouts: dict[bool, tuple[Layout, str]] = {} if prefix else dict.fromkeys((False, True), (Full(), "asked for"))
        self._embeddings_checked = False

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, revision={self.revision!r}, device={str(self.device)!r}, dtype={self.model.dtype})"

    def prompt(self, source: Source) -> Prompt:
        """Tokenise text or a chat, or take ids as they are; see `Tokens.prompt`."""
        return self.tokens.prompt(source)

    def embeddings(self, token_ids: Sequence[int]) -> Float[Tensor, "tokens dim"]:
        """What the model's embedding module makes of these tokens."""
        with evaluation_mode(self.model):
            return self.model.get_input_embeddings()(torch.tensor(token_ids, device=self.device))

    def to_device(self, tensor: Tensor) -> Tensor:
        """The tensor where the model's embeddings are; float64 stays on the CPU where the device has none (Apple's GPU)."""
        return tensor if tensor.dtype == torch.float64 and self.device.type == "mps" else tensor.to(self.device)

    def layout(self, prompt: Prompt) -> tuple[Layout, str]:
        """The layout that serves this prompt, and why where that is the full one; known once such a prompt had its clean run."""
        return self._layouts.get(self._windowed(prompt), (Full(), "the prompt is too short to tell"))

    def clean(self, prompts: Sequence[Prompt]) -> list[CleanRun]:
        """Run each prompt unperturbed; short ones share forward passes."""
        return [clean for (clean,) in self.forward([ForwardRequest(prompt, (len(prompt) - 1,)) for prompt in prompts])]

    def forward(self, runs: Sequence[ForwardRequest]) -> list[list[CleanRun]]:
        """Run each sequence once and take the clean run of its beginning up to each of its ends from that."""
        results: list[list[CleanRun]] = []
        with evaluation_mode(self.model):
            for group in self._clean_groups(runs):
                results += self._clean_that_fits(group, gradient=group[0].slopes is not None and not self._no_gradient)
                self._inspect(results[-1][-1].source)
                self._told()
        return results

    def generate(self, prompt: Prompt, count: int) -> tuple[int, ...]:
        """The tokens that the model holds most probable one after the other: `count`, or fewer where it ends its answer.

        No sampling, no penalties, whatever the model's generation settings say; ties go to the lowest id. The token that
        ends the answer is the last. Raises NonFiniteError where a logit is NaN or infinite.
        """
        ends = {self.tokenizer.eos_token_id} | set(_listed(getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)))
        ids: list[int] = []
        while len(ids) < count and not ends.intersection(ids[-1:]):
            sequence = torch.tensor([*prompt.input_ids, *ids], device=self.device)
            with evaluation_mode(self.model), unify_memory_errors():
                embeds = self.model.get_input_embeddings()(sequence)[None]
                logits = self.model(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits[0, -1].float()
            if not logits.isfinite().all():
                raise NonFiniteError("the model's logits hold NaN or infinity: it cannot continue this prompt")
            self.token_counter.forward_tokens += len(sequence)
            ids.append(int(logits.argmax()))
            self._told()
        return tuple(ids)

    @contextmanager
    def progress_callback(self, watcher: ProgressCallback) -> Iterator[None]:
        """Inside, `watcher` is called after every batch, in the thread that runs the model. What it raises (`Stopped`) ends the
        work and comes out where that was asked for; the model is left as it was."""
        begun, before = self.token_counter.forward_tokens, self._tell
        self._tell = lambda done, left: watcher(done - begun, left)
        try:
            yield
        finally:
            self._tell = before

    def _told(self, left: int = 0) -> None:
        if self._tell is not None:
            self._tell(self.token_counter.forward_tokens, left)

    def run_perturbed(self, probes: Sequence[PerturbedRows]) -> list[Readout]:
        """Run every probe, batched by the budget, and read its numbers. The order is the caller's.

        Raises ModelError where gradients are wanted of a model too much of which is offloaded.
        """
        if any(probe.weights is not None for probe in probes):
            check_gradient(self._no_gradient)
        collector = Collector(len(probes))
        left = sum(self.layout(probe.clean.prompt)[0].tokens(probe) * probe.rows for probe in probes) if self._tell else 0
        with evaluation_mode(self.model):
            for batch in batches(probes, lambda probe: self.layout(probe.clean.prompt)[0], self._budget):
                before = self.token_counter.forward_tokens
                self._run(batch, collector)
                left -= self.token_counter.forward_tokens - before
                self._told(max(0, left))
        return collector.readings()

    def _budget(self, probe: PerturbedRows) -> Budget:
        return self.budget if probe.weights is None else self.gradient_budget

    def _run(self, batch: Batch, collector: Collector, *, squeezed: bool = False) -> None:
        """One batch. On out-of-memory its halves, down to a single row, and the budget remembers what did fit."""
        layout = self.layout(batch.probes[0].clean.prompt)[0]
        sums: Sums | None = None
        with suppress(DeviceMemoryError), unify_memory_errors():
            sums = run_batch(self.model, layout, batch)
        halves = batch.halves()
        if sums is None:
            for half in halves or ():
                self._run(half, collector, squeezed=True)
            if halves is None:
                collector.fail(batch, "oom")
            return
        self.token_counter.forward_tokens += sum(sums.forward)
        self.token_counter.backward_tokens += sum(sums.backward)
        if squeezed:
            self._budget(batch.probes[0]).learn(sum(sums.forward), len(batch.rows) * batch.offsets()[-1])
        if halves and len(batch.probes) > 1 and not sums.finite.all():
            for half in halves:  # NaN spreads through the attention of a shared sequence: find out whose it is
                self._run(half, collector)
            return
        collector.add(batch, sums)

    def _windowed(self, prompt: Prompt) -> bool:
        return exceeds_window(self.model.config.get_text_config(), len(prompt))

    def _clean_groups(self, runs: Sequence[ForwardRequest]) -> Iterator[list[ForwardRequest]]:
        """What runs in one pass: alone until the packed layout has proved itself, then up to the budget's length."""
        group: list[ForwardRequest] = []
        for run in runs:
            packs = self.layout(run.prompt)[0].packs and (not group or self.layout(group[0].prompt)[0].packs)
            fits = sum(len(each.prompt) for each in group) + len(run.prompt) <= self.budget.length
            alike = not group or ((run.slopes is None) == (group[0].slopes is None) and not (run.fold or group[0].fold))
            if group and not (packs and fits and alike):
                yield group
                group = []
            group.append(run)
        if group:
            yield group

    def _clean_that_fits(self, group: list[ForwardRequest], gradient: bool) -> list[list[CleanRun]]:
        """The group's clean runs; one by one where memory is short or one's NaN spread; without the gradient if need be."""
        with suppress(DeviceMemoryError), unify_memory_errors():
            cleans = self._clean(group, gradient)
            if len(group) == 1 or all(clean.logits.isfinite().all() for found in cleans for clean in found):
                return cleans
        if len(group) > 1:
            return [cleans for run in group for cleans in self._clean_that_fits([run], gradient)]
        with unify_memory_errors():
            return self._clean(group, gradient=False)

    def _clean(self, group: list[ForwardRequest], gradient: bool) -> list[list[CleanRun]]:
        ids = [torch.tensor(run.prompt.input_ids, device=self.device) for run in group]
        with torch.set_grad_enabled(gradient):
            embeds = [self.model.get_input_embeddings()(each).detach().requires_grad_(gradient) for each in ids]
            with folding(self.model, len(embeds[0]), group[0].fold) as folded:
                kept, cache = self._clean_logits(embeds, [run.ends for run in group])
            logits = kept.float().split([len(run.ends) for run in group])
            gradients = self._slopes(group, logits, embeds) if gradient else [{} for _ in group]
        self.token_counter.forward_tokens += sum(map(len, ids))
        layers = split_layers(read_cache(cache), [len(each) for each in ids])
        parts = zip(group, embeds, logits, layers, gradients, strict=True)
        return [_beginnings(run, e.detach(), found.detach(), kv, slopes, folded.value) for run, e, found, kv, slopes in parts]

    def _clean_logits(self, embeds: list[Tensor], ends: Sequence[Sequence[int]]) -> tuple[Float[Tensor, "kept vocab"], DynamicCache]:
        if len(embeds) > 1:
            return packed_clean(self.model, embeds, ends)
        cache, keep = DynamicCache(), len(embeds[0]) - ends[0][0]
        logits = self.model(inputs_embeds=embeds[0][None], past_key_values=cache, use_cache=True, logits_to_keep=keep).logits[0]
        logits = logits.to(embeds[0].device)
        return logits[[end - len(embeds[0]) for end in ends[0]]], cache

    def _slopes(self, group: list[ForwardRequest], logits: Sequence[Tensor], embeds: list[Tensor]) -> list[dict[int, Tensor]]:
        """The gradients that each run wants. A run's second and further ones take backward passes of their own."""
        wanted = [dict(run.slopes(own)) if run.slopes else {} for run, own in zip(group, logits, strict=True)]
        found: list[dict[int, Tensor]] = [{} for _ in group]
        while any(wanted):
            having = [number for number, own in enumerate(wanted) if own]
            turn = [(number, *wanted[number].popitem()) for number in having]
            total = torch.stack([scalar for _, _, scalar in turn]).sum()
            check_slope(total)
            inputs = [embeds[number] for number in having]
            gradients = torch.autograd.grad(total, inputs, retain_graph=any(wanted))
            for (number, end, _), gradient in zip(turn, gradients, strict=True):
                found[number][end] = gradient.float()
            self.token_counter.backward_tokens += sum(map(len, inputs))
        return found

    def _inspect(self, clean: CleanRun) -> None:
        """Once a model: do embeddings speak for ids? Once a model and window: does the packed layout hold?"""
        windowed = self._windowed(clean.prompt)
        with unify_memory_errors():
            if not self._embeddings_checked:
                check_embeddings(self.model, torch.tensor(clean.prompt.input_ids, device=self.device), clean.probs)
                self._embeddings_checked = True
            if windowed not in self._layouts and len(clean.prompt) > 2:
                self._layouts[windowed] = choose_layout(self.model, clean)


def _beginnings(
    run: ForwardRequest, embeds: Tensor, logits: Tensor, layers: tuple[KeysValues, ...], slopes: dict[int, Tensor], attention: Tensor | None
) -> list[CleanRun]:
    last = len(run.ends) - 1
    whole = CleanRun(run.prompt, embeds, logits[last], layers, slopes.get(last), attention)
    rest = [whole.beginning(end + 1, logits[place], slopes.get(place)) for place, end in enumerate(run.ends[:-1])]
    return [*rest, whole]


def _listed(ids: Any) -> list[int]:
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


@contextmanager
def evaluation_mode(model: Any) -> Iterator[None]:
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
