"""Check on the model at hand that packed rows give the logits of whole rows, before the packed layout is used.

A model may count places in a sequence where it should count positions: a window, a chunk, a bias or a scale of its own. Such a
model is right in a short packing and wrong in a longer one. So a packing is used only up to the length, and for prompts up to
the length, that was checked. The check runs synthetic prompts, so that no prompt of the user decides about another.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import transformers
from jaxtyping import Float
from torch import Tensor

from noiser.errors import DeviceMemoryError
from noiser.lm.checkpoint import first_line
from noiser.lm.devices import TOO_LARGE, Budget, unify_memory_errors
from noiser.lm.forward import LAYOUTS, Layout, exceeds_window, longest_prefixes, run_packed_prompts, run_prompt
from noiser.lm.kv_cache import CleanRun, LayoutName, read_cache
from noiser.lm.perturbation import AddNoise, Batch, PerturbedRows
from noiser.lm.quantity import token_logit_fn
from noiser.lm.restore import evaluation_mode
from noiser.lm.rotary import length_class
from noiser.storage import cache_folder, write_file
from noiser.text.prompt import Prompt

FORMAT = 3
"""Part of the name of what is remembered in the cache. It changes when the check changes."""
ROWS = 2
"""Draws of noise in each trial. Their difference is the effect that a layout's error is compared with."""
SHORTEST = 16
"""Tokens of the shortest prompt that is checked. Shorter prompts have its result."""
LONG = 1024
"""Tokens of the longest prompt whose check runs whole rows of every kind. Longer prompts have a check of few rows."""
TAIL = 32
"""Tokens at the end of a prompt that get noise in that check."""


_IN_THIS_PROCESS: WeakKeyDictionary[Any, dict[str, dict[str, str]]] = WeakKeyDictionary()
"""The results of each model object that is in memory, by fingerprint."""


def tolerance(dtype: torch.dtype) -> float:
    """The largest difference between two ways to the same logits, as a share of a perturbation's effect. Rounding is below it."""
    return 0.002 if dtype in (torch.float32, torch.float64) else 0.05


@dataclass
class LayoutCheck:
    """What is known about one model: the longest packing that gives the right logits, for prompts of each length."""

    model: Any
    synthetic_ids: Callable[[int, int], list[int]]
    """Callable(length, seed): ids of ordinary tokens, for synthetic prompts."""
    limit: int | None
    """The largest number of tokens that the model takes. None if it is not known."""
    budget: Budget
    """What may run at once. The check keeps to it."""
    device: torch.device
    """Where the model's inputs are."""
    identity: str = ""
    """What the result depends on. If it is not empty, results are remembered in the user's cache."""
    reason: str = ""
    """Why no packing is possible, if that is known without a check."""
    on_tokens: Callable[[int], None] = lambda _: None
    """Callback(tokens) with the token-forwards that a check took."""
    _results: dict[str, str] = field(init=False)
    _file: Path | None = field(init=False)
    _lengths: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reason = self.reason or _why_impossible(self.model)
        key = _fingerprint(self.model, self.identity)
        shared = _IN_THIS_PROCESS.setdefault(self.model, {})
        self._file = cache_folder() / "layouts" / key if self.identity else None
        if key not in shared and self._file is not None:
            with suppress(OSError, ValueError):
                shared[key] = {str(name): str(result) for name, result in json.loads(self._file.read_bytes()).items()}
        self._results = shared.setdefault(key, {})

    def layout(self, seq: int) -> tuple[LayoutName, str]:
        """The layout for rows of prompts of `seq` tokens, and the reason if it is the full one."""
        if self.capacity(seq, seq):
            return "packed", ""
        return "full", self.reason or self._results[self._key(seq, 2 * _octave(seq))]

    def capacity(self, seq: int, wanted: int) -> int:
        """The longest packing, in tokens, that is right for prompts of `seq` tokens: at least `wanted` if possible, 0 if none is."""
        shortest = 2 * _octave(seq)
        keys = max(shortest, _octave(max(wanted, self._usual)))
        while not self.reason and keys >= shortest:
            if not self._result(seq, keys):
                return keys
            keys //= 2
        return 0

    @property
    def _usual(self) -> int:
        """Tokens of the packings that the budget allows. They are checked at once, so that one check is enough."""
        return min(2 * self.budget.length, self.budget.tokens // 2 + 1)

    def _result(self, seq: int, keys: int) -> str:
        """Why a packing of `keys` tokens is wrong. Empty if it is right."""
        name = self._key(seq, keys)
        if name not in self._results:
            longer = (self._key(seq, keys * 2**power) for power in range(1, 8))
            if any(self._results.get(other) == "" for other in longer):
                return ""
            self._results[name] = self._check(seq, keys)
            if self._file is not None:
                with suppress(OSError):
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    write_file(self._file, json.dumps(self._results).encode())
        return self._results[name]

    def _key(self, seq: int, keys: int) -> str:
        return f"{self._checked_length(seq)} tokens in {keys}"

    def _checked_length(self, seq: int) -> int:
        """The length that is checked for prompts of `seq` tokens: the next power of two, or the longest before it that the model
        treats alike."""
        if seq not in self._lengths:
            config = self.model.config.get_text_config()
            rounded = max(seq, min(_octave(seq), self.limit or _octave(seq)))
            kind = exceeds_window(config, seq), length_class(config, seq)
            lengths = range(rounded, seq - 1, -1)
            self._lengths[seq] = next(n for n in lengths if (exceeds_window(config, n), length_class(config, n)) == kind)
        return self._lengths[seq]

    def _check(self, seq: int, keys: int) -> str:
        """Check the length that stands for `seq`, or `seq` itself if that does not fit into memory."""
        with suppress(DeviceMemoryError):
            return self._check_length(self._checked_length(seq), keys)
        return self._check_length(seq, keys)

    def _check_length(self, length: int, keys: int) -> str:
        try:
            with evaluation_mode(self.model):
                check = _difference if length <= LONG else _difference_when_long
                difference, tokens = check(self.model, self.synthetic_ids, length, keys, self.budget, self.device)
        except DeviceMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever a model raises on a mask, a cache or positions)
            return f"the packed layout failed: {first_line(error)}"
        self.on_tokens(tokens)
        if difference <= tolerance(self.model.dtype):
            return ""
        return f"the packed layout's logits differ by {difference:.2g} of a perturbation's effect, in {keys} tokens"


def _fingerprint(model: Any, identity: str) -> str:
    """The name of what is known about a model: another model, configuration or library has another one."""
    config = model.config
    versions = FORMAT, torch.__version__, transformers.__version__
    parts = (*versions, identity, str(model.dtype), config._attn_implementation, type(model).__name__, config.to_json_string())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _octave(count: int) -> int:
    """The next power of two, from SHORTEST on."""
    return max(SHORTEST, 1 << (count - 1).bit_length())


def _why_impossible(model: Any) -> str:
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "the model takes no position_ids"
    if model.config._attn_implementation not in ("sdpa", "eager"):
        return f"a mask cannot steer {model.config._attn_implementation}"
    return ""


@dataclass(frozen=True, eq=False)
class _Trial:
    """Noise on one token of a synthetic prompt."""

    rows: PerturbedRows
    whole: Float[Tensor, "rows vocab"]
    """The logits of whole rows."""

    @property
    def suffix(self) -> int:
        return len(self.rows.clean.prompt) - self.rows.perturbation.start


def _difference(
    model: Any, synthetic_ids: Callable[[int, int], list[int]], seq: int, keys: int, budget: Budget, device: torch.device
) -> tuple[float, int]:
    """The largest difference between packed and whole logits, as a share of a perturbation's effect, and the token-forwards.

    Two prompts, one of them short, share packings of `keys` tokens: of suffixes, and of whole prompts, the short one first.
    """
    config = model.config.get_text_config()
    short = min(seq, max(3, seq // 3))
    lengths = short if length_class(config, short) == length_class(config, seq) else seq, seq
    embed = model.get_input_embeddings()
    embeds = [embed(torch.tensor(synthetic_ids(length, number), device=device)) for number, length in enumerate(lengths)]
    cleans = [_clean(model, tensor) for tensor in embeds]
    if not all(clean.layers for clean in cleans):
        raise ValueError("the model keeps more than keys and values")
    trials = [trial for trials in zip(*(_trials(model, clean, budget) for clean in cleans), strict=True) for trial in trials]
    effect = max(float((trial.whole[0] - trial.whole[1]).norm(dim=-1).max()) for trial in trials)
    packing = _fill(trials, keys, budget)
    suffixes = sum(trial.suffix for trial in packing)
    rows = ROWS if ROWS * suffixes <= budget.tokens and ROWS * len(packing) <= budget.rows else 1
    packed = _logits(LAYOUTS["packed"], model, [trial.rows for trial in packing], rows)
    difference = float((torch.stack([trial.whole[:rows] for trial in packing], dim=1) - packed).norm(dim=-1).max())
    together = (0, 1, 0)
    with suppress(DeviceMemoryError), unify_memory_errors():  # prompts that do not fit together never run together
        at_ends, _ = run_packed_prompts(model, [embeds[number] for number in together], [[lengths[number] - 1] for number in together])
        alone = torch.stack([cleans[number].logits for number in together])
        difference = max(difference, float((alone - at_ends.float()).norm(dim=-1).max()))
    whole_rows = ROWS * sum(len(trial.rows.clean.prompt) for trial in trials)
    tokens = sum(lengths) + whole_rows + rows * suffixes + sum(lengths[number] for number in together)
    return difference / effect, tokens


def _difference_when_long(
    model: Any, synthetic_ids: Callable[[int, int], list[int]], seq: int, keys: int, budget: Budget, device: torch.device
) -> tuple[float, int]:
    """The same for a long prompt, in three to four times its tokens.

    Noise on the last tokens of it, and of a short prompt, shares a packing of `keys` tokens, as short suffixes do. The second half of the
    long prompt runs alone and without noise, as long suffixes do: its logits must be those of the clean run.
    """
    embed, config = model.get_input_embeddings(), model.config
    lengths = [n for n in (4 * TAIL, seq) if length_class(config, n) == length_class(config, seq)]
    cleans = [_clean(model, embed(torch.tensor(synthetic_ids(n, number), device=device))) for number, n in enumerate(lengths)]
    if not all(clean.layers for clean in cleans):
        raise ValueError("the model keeps more than keys and values")
    trials = [_noise_on_tail(model, clean) for clean in cleans]
    effect = max(float((trial.whole - clean.logits).norm(dim=-1).max()) for trial, clean in zip(trials, cleans, strict=True))
    packing = _fill(trials, keys, budget)
    packed = _logits(LAYOUTS["packed"], model, [trial.rows for trial in packing], 1)
    difference = float((torch.stack([trial.whole for trial in packing], dim=1) - packed).norm(dim=-1).max())
    half = _noise(cleans[-1], seq // 2, torch.zeros(1, 1, cleans[-1].embeds.shape[1], device=device))
    alone = _logits(LAYOUTS["packed"], model, [half], 1)[0, 0]
    difference = max(difference, float((alone - cleans[-1].logits).norm()))
    return difference / effect, 2 * sum(lengths) + sum(trial.suffix for trial in packing) + seq - seq // 2


def _noise_on_tail(model: Any, clean: CleanRun) -> _Trial:
    """One draw of noise on the last tokens."""
    generator = torch.Generator().manual_seed(len(clean.prompt))
    noise = torch.randn(1, TAIL, clean.embeds.shape[1], generator=generator).to(clean.embeds.device) * clean.embeds.float().std()
    rows = _noise(clean, len(clean.prompt) - TAIL, noise)
    return _Trial(rows, _logits(LAYOUTS["full"], model, [rows], 1)[:, 0])


def _noise(clean: CleanRun, start: int, noise: Float[Tensor, "rows span dim"]) -> PerturbedRows:
    """Rows with noise from this position on, read at the last one."""
    return PerturbedRows(clean, AddNoise(start, noise, 1.0), token_logit_fn("prob", (0,), (len(clean.prompt) - 1,)))


def _clean(model: Any, embeds: Float[Tensor, "seq dim"]) -> CleanRun:
    length = len(embeds)
    with unify_memory_errors():
        logits, cache = run_prompt(model, embeds, [length - 1])
    prompt = Prompt("", (0,) * length, ("",) * length, (False,) * length)
    return CleanRun(prompt, embeds, logits[0].float(), read_cache(cache))


def _trials(model: Any, clean: CleanRun, budget: Budget) -> list[_Trial]:
    """Noise on the first, the middle and the last token, two draws each, read at the last position."""
    last = len(clean.prompt) - 1
    size = clean.embeds.float().std()
    generator = torch.Generator().manual_seed(last)
    noise = torch.randn(3, ROWS, 1, clean.embeds.shape[1], generator=generator).to(clean.embeds.device) * size
    members = [_noise(clean, position, own) for position, own in zip((0, last // 2, last), noise, strict=True)]
    groups = [members] if len(members) * ROWS * len(clean.prompt) <= budget.tokens else [[member] for member in members]
    whole = torch.cat([_logits(LAYOUTS["full"], model, group, ROWS) for group in groups], dim=1)
    return [_Trial(rows, whole[:, index]) for index, rows in enumerate(members)]


def _fill(trials: Sequence[_Trial], keys: int, budget: Budget) -> list[_Trial]:
    """As many of these rows as a packing of `keys` tokens takes, over and over. The first one is always among them."""
    chosen: list[_Trial] = []
    skipped = index = 0
    while skipped < len(trials):
        longer = [*chosen, trials[index % len(trials)]]
        suffixes = sum(trial.suffix for trial in longer)
        fits = sum(longest_prefixes([trial.rows for trial in longer]).values()) + suffixes <= keys
        fits = fits and suffixes <= budget.tokens and len(longer) <= budget.rows
        chosen, skipped, index = (longer, 0, index + 1) if fits else (chosen, skipped + 1, index + 1)
    return chosen or [trials[0]]


def _logits(layout: Layout, model: Any, members: Sequence[PerturbedRows], rows: int) -> Float[Tensor, "rows members vocab"]:
    """The logits of the first rows of each member, float32."""
    return _logits_of_batch(layout, model, Batch(tuple(members), tuple(range(len(members))), range(rows)))


def _logits_of_batch(layout: Layout, model: Any, batch: Batch) -> Float[Tensor, "rows members vocab"]:
    """The logits of a batch. If it does not fit into memory, those of its halves: memory must not decide about the layout."""
    with suppress(DeviceMemoryError), unify_memory_errors():
        return layout.logits(model, batch, batch.embeds()).float()
    halves = batch.halves()
    if halves is None:
        raise DeviceMemoryError(TOO_LARGE)
    return torch.cat([_logits_of_batch(layout, model, half) for half in halves], dim=1 if len(batch.members) > 1 else 0)
