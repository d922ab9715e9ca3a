"""A judge in this process: a chat or base model from our own loader, which answers greedily and in batches."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from noiser.errors import DeviceMemoryError, JudgeError, ModelError, PromptError, RunError
from noiser.judges.backend import Call, Completion, Message, OnCompletion
from noiser.judges.json_decoding import ConstrainedDecoder, JsonTemplate, StopWhenComplete, StringTokens, json_template, string_tokens
from noiser.judges.protocol import LOCAL
from noiser.lm.devices import unify_memory_errors
from noiser.lm.load import identify, load
from noiser.lm.model import LanguageModel
from noiser.lm.restore import evaluation_mode

BATCH_SIZES = {"cpu": 16, "cuda": 256}
"""Questions in a batch, by device. 16 on any other device."""
DECODING_VERSION = 1
"""Part of the identity. Raise it when decoding changes: replies of two versions do not mix."""
TOO_LARGE = "one question does not fit into memory, even alone: use a smaller judge, or another device"


@dataclass(frozen=True)
class _PreparedCall:
    """A call, tokenized."""

    index: int
    ids: tuple[int, ...]
    max_tokens: int
    batch_key: str
    """Calls with equal keys can be completed in one batch."""


class LocalBackend:
    """A Backend that is a model in this process. The model is loaded at the first call. Completions do not depend on `batch`."""

    def __init__(self, model: str, *, device: str = "auto", batch: int | None = None, lm: LanguageModel | None = None) -> None:
        """Find the model without loading it.

        model   any name that `noiser.load` takes: a hub id, folder, GGUF file or alias
        device  as in `noiser.load`
        batch   the most questions in a batch. It is halved when memory is short. None: a default by device
        lm      the model, if it is loaded already. It is left as it was.

        Raises ModelError if the model does not exist.
        """
        if lm is None:
            found = identify(model, device=device)
            name, revision, dtype = found.name, found.revision, found.dtype
        else:
            name, revision, dtype = lm.name, lm.revision, str(lm.model.dtype).removeprefix("torch.")
        self.name = f"{LOCAL}:{name}"
        self.identity: Mapping[str, Any] = {"judge": self.name, "revision": revision, "dtype": dtype, "writing": DECODING_VERSION}
        self.model = f"{name}@{revision}"
        self.counts: Counter[str] = Counter()
        self.batch = batch
        """The most questions in a batch. It becomes smaller when a batch does not fit. None: a default by device."""
        self._load: Callable[[], LanguageModel] = lambda: load(model, device=device)
        self._lm = lm

    @property
    def structured(self) -> bool:
        """Whether the tokenizer can write JSON strings: completions then follow the schema. Loads the model."""
        return self._string_tokens is not None

    @cached_property
    def _string_tokens(self) -> StringTokens | None:
        lm = self._loaded()
        return string_tokens(lm.tokens, lm.model.get_output_embeddings().weight.shape[0])

    def check(self) -> None:
        """Load the model. Raises RunError if it cannot be loaded or cannot generate text."""
        self._loaded()

    def parameters(self, call: Call) -> dict[str, Any]:
        """Greedy decoding has no parameters except the schema or the length."""
        return {"decoding": "greedy", **({"max_tokens": call.max_tokens} if call.schema is None else {"spelt": call.schema})}

    def complete(self, calls: Sequence[Call], on_completion: OnCompletion) -> None:
        """Complete every call: calls of similar length together, the longest first. Raises RunError as `check` does.

        A JudgeError is reported for a chat that the tokenizer or its template refuses, for one that leaves no room for its completion,
        for logits that are NaN or infinite, and for one call that does not fit into memory alone.
        """
        lm = self._loaded()
        prepared: list[_PreparedCall] = []
        self.counts["calls"] += len(calls)
        for index, call in enumerate(calls):
            result = _prepare(lm, index, call)
            if isinstance(result, JudgeError):
                self._fail(index, "prompt", result, on_completion)
            else:
                prepared.append(result)
        prepared.sort(key=lambda call: (call.batch_key, len(call.ids)), reverse=True)
        for _, group in groupby(prepared, key=lambda call: call.batch_key):
            waiting = list(group)
            template = self._template(lm, calls[waiting[0].index])
            while waiting:
                batch = waiting[: self.batch or BATCH_SIZES.get(lm.device.type, 16)]
                if self._complete_batch(lm, batch, template, on_completion):
                    del waiting[: len(batch)]

    def _template(self, lm: LanguageModel, call: Call) -> JsonTemplate | None:
        """Return the template of the call's schema. None for free text. Raises RunError if the tokenizer cannot write it."""
        if call.schema is None:
            return None
        template = json_template(lm.tokens, self._string_tokens, call.schema) if self._string_tokens is not None else None
        if template is None:
            raise RunError(f"{self.name} cannot be asked: its tokenizer cannot write {', '.join(call.schema['properties'])} as JSON")
        return template

    def _loaded(self) -> LanguageModel:
        if self._lm is None:
            try:
                self._lm = self._load()
            except ModelError as error:
                raise RunError(f"{self.name} cannot be asked: {error}") from error
        if not hasattr(self._lm.model, "generate"):
            raise RunError(f"{self.name} cannot be asked: {type(self._lm.model).__name__} has no generate(), so it writes no text")
        return self._lm

    def _complete_batch(
        self, lm: LanguageModel, batch: Sequence[_PreparedCall], template: JsonTemplate | None, on_completion: OnCompletion
    ) -> bool:
        """Complete one batch. False: it did not fit into memory, and the next batch is half as large."""
        outcomes: list[Completion | JudgeError] | None = None
        with suppress(DeviceMemoryError), unify_memory_errors():
            outcomes = _outcomes(lm, batch, template, self.model)
        if outcomes is None and len(batch) > 1:
            self.batch = len(batch) // 2
            return False
        if outcomes is None:
            self._fail(batch[0].index, "oom", JudgeError(TOO_LARGE), on_completion)
            return True
        for call, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, JudgeError):
                self._fail(call.index, "nonfinite", outcome, on_completion)
            else:
                on_completion(call.index, outcome)
        return True

    def _fail(self, index: int, kind: str, error: JudgeError, on_completion: OnCompletion) -> None:
        self.counts[kind] += 1
        on_completion(index, error)


def _prepare(lm: LanguageModel, index: int, call: Call) -> _PreparedCall | JudgeError:
    try:
        ids = _chat_ids(lm, call.messages)
    except PromptError as error:
        return JudgeError(f"the judge cannot be asked this: {error}")
    limit = lm.tokens.limit
    if limit is not None and len(ids) + call.max_tokens > limit:
        sizes = f"the question has {len(ids):,} tokens and the reply up to {call.max_tokens:,}"
        return JudgeError(f"{sizes}; the judge takes {limit:,} in all")
    return _PreparedCall(index, ids, call.max_tokens, json.dumps([call.max_tokens, call.schema]))


def _chat_ids(lm: LanguageModel, messages: Sequence[Message]) -> tuple[int, ...]:
    """Return the token ids of a chat.

    The tokenizer's template writes it. If the template refuses or drops the system message, its text goes before the user's. Without
    a template the texts stand one below the other up to the last visible character: most base models continue a trailing space
    with something that is no word.
    """
    plain = [dict(message) for message in messages]
    if not _has_template(lm):
        return lm.prompt("\n\n".join(message["content"] for message in plain).rstrip()).input_ids
    try:
        prompt = lm.prompt(plain)
        dropped = any(turn.role == "system" and not turn.tokens for turn in prompt.turns) and any(turn.tokens for turn in prompt.turns)
        return lm.prompt(_merge_system_message(plain)).input_ids if dropped else prompt.input_ids
    except PromptError:
        merged = _merge_system_message(plain)
        if merged == plain:
            raise
        return lm.prompt(merged).input_ids


def _merge_system_message(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Put the system message at the beginning of the next message."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _has_template(lm: LanguageModel) -> bool:
    return bool(getattr(lm.tokenizer, "chat_template", None))


def _outcomes(
    lm: LanguageModel, batch: Sequence[_PreparedCall], template: JsonTemplate | None, model: str
) -> list[Completion | JudgeError]:
    """Generate one batch and return each call's completion, or its error if a logit was NaN or infinite."""
    watch = _NonFiniteWatch(len(batch))
    if template is not None:
        completions, length = _structured_completions(lm, batch, template, watch, model)
    else:
        completions, length = _free_completions(lm, batch, watch, model)
    lm.token_counter.forward_tokens += sum(len(call.ids) for call in batch) + length
    error = JudgeError("the judge's logits hold NaN or infinity: it cannot answer")
    return [error if broken else completion for broken, completion in zip(watch.broken, completions, strict=True)]


def _structured_completions(
    lm: LanguageModel, batch: Sequence[_PreparedCall], template: JsonTemplate, watch: LogitsProcessor, model: str
) -> tuple[list[Completion], int]:
    """Return completions that fill the template, and the number of generated tokens."""
    decoder = ConstrainedDecoder(template, len(batch))
    rows = _generate(lm, batch, template.max_length, [], [watch, decoder], [StopWhenComplete(decoder)])
    rows = [row[:length] for row, length in zip(rows, decoder.lengths, strict=True)]
    return [Completion(lm.tokens.text(row).strip(), "stop", model) for row in rows], sum(map(len, rows))


def _free_completions(
    lm: LanguageModel, batch: Sequence[_PreparedCall], watch: LogitsProcessor, model: str
) -> tuple[list[Completion], int]:
    """Return completions in free text, and the number of generated tokens. A base model's completion is one line."""
    ends, one_line = _end_tokens(lm), not _has_template(lm)
    stops = [_StopAtLineEnd(lm.tokenizer, max(len(call.ids) for call in batch))] if one_line else []
    rows = _generate(lm, batch, batch[0].max_tokens, ends, [watch], stops)
    return [_completion(lm, row, ends, one_line, model) for row in rows], sum(map(len, rows))


def _completion(lm: LanguageModel, row: list[int], ends: list[int], one_line: bool, model: str) -> Completion:
    """Return the text of a row up to its end token; the tokens behind it are padding."""
    length = next((index for index, token in enumerate(row) if token in ends), len(row))
    text = lm.tokenizer.decode(row[:length], skip_special_tokens=True)
    line = text.lstrip().partition("\n") if one_line else (text, "", "")
    return Completion(line[0], "stop" if length < len(row) or line[1] else "length", model)


def _generate(
    lm: LanguageModel,
    batch: Sequence[_PreparedCall],
    max_new_tokens: int,
    ends: list[int],
    processors: list[Any],
    stops: list[Any],
) -> list[list[int]]:
    """Return the tokens that the model generates for each row, greedily. A row that has ended is filled up."""
    ids, mask = _left_padded(lm, batch)
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=(ends or [0])[0],
        use_cache=True,
    )
    with _without_generation_config(lm.model), evaluation_mode(lm.model):
        output = lm.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(stops),
        )
    return output[:, ids.shape[1] :].tolist()


@contextmanager
def _without_generation_config(model: Any) -> Iterator[None]:
    """Replace the model's generation settings by empty ones.

    Values that our config leaves open would otherwise come from the checkpoint: a penalty, suppressed tokens, a shortest length.
    """
    config = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = config


def _end_tokens(lm: LanguageModel) -> list[int]:
    """Return the tokens that end a completion: the tokenizer's and the model's."""
    of_model = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    tokens = {lm.tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])}
    return sorted(token for token in tokens if token is not None)


def _left_padded(lm: LanguageModel, batch: Sequence[_PreparedCall]) -> tuple[Int[Tensor, "rows seq"], Int[Tensor, "rows seq"]]:
    """Return ids that all end in the last column, and their mask. The padding's ids are masked, so their values do not matter."""
    width = max(len(call.ids) for call in batch)
    ids = [[call.ids[0]] * (width - len(call.ids)) + list(call.ids) for call in batch]
    mask = [[0] * (width - len(call.ids)) + [1] * len(call.ids) for call in batch]
    return torch.tensor(ids, device=lm.device), torch.tensor(mask, device=lm.device)


class _NonFiniteWatch(LogitsProcessor):
    """Remembers the rows in which a logit was NaN or infinite. It changes no logit."""

    def __init__(self, rows: int) -> None:
        self.broken = [False] * rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  (the signature of transformers)
        self.broken = [before or now for before, now in zip(self.broken, (~scores.isfinite().all(dim=-1)).tolist(), strict=True)]
        return scores


class _StopAtLineEnd(StoppingCriteria):
    """Ends a row at the end of its first line with visible text."""

    def __init__(self, tokenizer: Any, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002  (the signature of transformers)
        texts = [self.tokenizer.decode(row[self.start :], skip_special_tokens=True) for row in input_ids]
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)
