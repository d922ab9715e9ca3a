"""A judge that runs here: a chat or base model through our own loader, which answers greedily, in batches."""

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
from noiser.judges.backend import Call, Completion, Heard, Message
from noiser.judges.json_decoding import Alphabet, ConstrainedDecoder, Endings, Spelling, alphabet, spelling
from noiser.judges.protocol import LOCAL
from noiser.lm.devices import unify_memory_errors
from noiser.lm.load import identify, load
from noiser.lm.model import LanguageModel, evaluation_mode

AT_ONCE = {"cpu": 16, "cuda": 256}
"""Questions at once, by device; 16 on any other."""
WRITING = 1
"""Raised whenever another way of writing replies would give others: they are not mixed with these."""
TOO_LARGE = "one question does not fit into memory, even alone: use a smaller judge, or another device"


@dataclass(frozen=True)
class _Asked:
    """A call, ready for the model."""

    place: int
    ids: tuple[int, ...]
    tokens: int
    alike: str
    """Calls of which this is the same can be answered together."""


class LocalBackend:
    """A Backend that is a model loaded here, at its first call. What it says does not depend on `batch`.

    `model` is all that `noiser.load` takes by name: a hub id, folder, GGUF file or alias; `device` as there; `batch` how many
    questions go through the model at once at most: half as many, and so on, where memory is short. `lm` is the model where it
    is loaded already; it is left as found. Raises ModelError where the model cannot be found.
    """

    def __init__(self, model: str, *, device: str = "auto", batch: int | None = None, lm: LanguageModel | None = None) -> None:
        if lm is None:
            found = identify(model, device=device)
            name, revision, dtype = found.name, found.revision, found.dtype
        else:
            name, revision, dtype = lm.name, lm.revision, str(lm.model.dtype).removeprefix("torch.")
        self.name = f"{LOCAL}:{name}"
        self.identity: Mapping[str, Any] = {"judge": self.name, "revision": revision, "dtype": dtype, "writing": WRITING}
        self.model = f"{name}@{revision}"
        self.counts: Counter[str] = Counter()
        self.batch = batch
        """Questions at once: what is known to fit, once one did not; None: as suits the device."""
        self._load: Callable[[], LanguageModel] = lambda: load(model, device=device)
        self._lm = lm

    @property
    def structured(self) -> bool:
        """Whether its tokenizer can write JSON strings: a reply is then spelt out around the words. Loads the model."""
        return self._alphabet is not None

    @cached_property
    def _alphabet(self) -> Alphabet | None:
        lm = self._loaded()
        return alphabet(lm.tokens, lm.model.get_output_embeddings().weight.shape[0])

    def check(self) -> None:
        """Load the model. Raises RunError where it cannot be loaded, or writes no text."""
        self._loaded()

    def parameters(self, call: Call) -> dict[str, Any]:
        """Greedy decoding has none but what it has to spell, or its length."""
        return {"decoding": "greedy", **({"max_tokens": call.tokens} if call.schema is None else {"spelt": call.schema})}

    def complete(self, calls: Sequence[Call], heard: Heard) -> None:
        """Complete every call, those of similar length together, the longest first. Raises RunError as `check` does.

        A JudgeError is heard for a chat that the tokenizer or its template refuses, for one that leaves no room for its reply,
        for logits that are NaN or infinite, and where memory does not suffice for one call alone.
        """
        lm = self._loaded()
        ready: list[_Asked] = []
        self.counts["calls"] += len(calls)
        for place, call in enumerate(calls):
            asked = _asked(lm, place, call)
            if isinstance(asked, JudgeError):
                self._fail(place, "prompt", asked, heard)
            else:
                ready.append(asked)
        ready.sort(key=lambda each: (each.alike, len(each.ids)), reverse=True)
        for _, alike in groupby(ready, key=lambda each: each.alike):
            waiting = list(alike)
            spelt = self._spelt(lm, calls[waiting[0].place])
            while waiting:
                now = waiting[: self.batch or AT_ONCE.get(lm.device.type, 16)]
                if self._answer(lm, now, spelt, heard):
                    del waiting[: len(now)]

    def _spelt(self, lm: LanguageModel, call: Call) -> Spelling | None:
        """What is spelt out for replies to this call; None for free text. Raises RunError where the tokenizer cannot write it."""
        if call.schema is None:
            return None
        spelt = spelling(lm.tokens, self._alphabet, call.schema) if self._alphabet is not None else None
        if spelt is None:
            raise RunError(f"{self.name} cannot be asked: its tokenizer cannot write {', '.join(call.schema['properties'])} as JSON")
        return spelt

    def _loaded(self) -> LanguageModel:
        if self._lm is None:
            try:
                self._lm = self._load()
            except ModelError as error:
                raise RunError(f"{self.name} cannot be asked: {error}") from error
        if not hasattr(self._lm.model, "generate"):
            raise RunError(f"{self.name} cannot be asked: {type(self._lm.model).__name__} has no generate(), so it writes no text")
        return self._lm

    def _answer(self, lm: LanguageModel, asked: Sequence[_Asked], spelt: Spelling | None, heard: Heard) -> bool:
        """One batch. False where memory does not suffice for it: from then on no more than half as many are tried."""
        replies: list[Completion | JudgeError] | None = None
        with suppress(DeviceMemoryError), unify_memory_errors():
            replies = _replies(lm, asked, spelt, self.model)
        if replies is None and len(asked) > 1:
            self.batch = len(asked) // 2
            return False
        if replies is None:
            self._fail(asked[0].place, "oom", JudgeError(TOO_LARGE), heard)
            return True
        for each, reply in zip(asked, replies, strict=True):
            if isinstance(reply, JudgeError):
                self._fail(each.place, "nonfinite", reply, heard)
            else:
                heard(each.place, reply)
        return True

    def _fail(self, place: int, kind: str, error: JudgeError, heard: Heard) -> None:
        self.counts[kind] += 1
        heard(place, error)


def _asked(lm: LanguageModel, place: int, call: Call) -> _Asked | JudgeError:
    try:
        ids = _ids(lm, call.messages)
    except PromptError as error:
        return JudgeError(f"the judge cannot be asked this: {error}")
    limit = lm.tokens.limit
    if limit is not None and len(ids) + call.tokens > limit:
        return JudgeError(f"the question has {len(ids):,} tokens and the reply up to {call.tokens:,}; the judge takes {limit:,} in all")
    return _Asked(place, ids, call.tokens, json.dumps([call.tokens, call.schema]))


def _ids(lm: LanguageModel, messages: Sequence[Message]) -> tuple[int, ...]:
    """The chat as the tokenizer's template has it; what the system says goes before the user's words where there is no room for
    it. Without a template the texts one below the other, up to their last visible character: a space at the end would make most
    base models go on with something that is no word."""
    plain = [dict(message) for message in messages]
    if not _has_template(lm):
        return lm.prompt("\n\n".join(message["content"] for message in plain).rstrip()).input_ids
    try:
        prompt = lm.prompt(plain)
        left_out = any(turn.role == "system" and not turn.tokens for turn in prompt.turns) and any(turn.tokens for turn in prompt.turns)
        return lm.prompt(_folded(plain)).input_ids if left_out else prompt.input_ids
    except PromptError:
        if _folded(plain) == plain:
            raise
        return lm.prompt(_folded(plain)).input_ids


def _folded(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Without a system message: what it said is the beginning of the next one."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    system, first, *rest = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *rest]


def _has_template(lm: LanguageModel) -> bool:
    return bool(getattr(lm.tokenizer, "chat_template", None))


class _Watch(LogitsProcessor):
    """Sees all logits, changes none, and remembers in which rows one was NaN or infinite."""

    def __init__(self, rows: int) -> None:
        self.broken = [False] * rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002  (transformers calls it so)
        self.broken = [was or now for was, now in zip(self.broken, (~scores.isfinite().all(dim=-1)).tolist(), strict=True)]
        return scores


class _LineEnds(StoppingCriteria):
    """Ends a row's reply at its first line that says something."""

    def __init__(self, tokenizer: Any, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:  # noqa: ARG002  (likewise)
        texts = [self.tokenizer.decode(row[self.start :], skip_special_tokens=True) for row in input_ids]
        return torch.tensor(["\n" in text.lstrip() for text in texts], device=input_ids.device)


def _replies(lm: LanguageModel, asked: Sequence[_Asked], spelt: Spelling | None, model: str) -> list[Completion | JudgeError]:
    ends, watch = _ends(lm), _Watch(len(asked))
    ids, mask = _padded(lm, asked)
    if spelt is not None:
        speller = ConstrainedDecoder(spelt, len(asked))
        rows = _written(lm, ids, mask, spelt.longest, [], [watch, speller], [Endings(speller)])
        rows = [row[:length] for row, length in zip(rows, speller.lengths, strict=True)]
        replies = [Completion(lm.tokens.text(row).strip(), "stop", model) for row in rows]
    else:
        by_line = not _has_template(lm)
        stops = [_LineEnds(lm.tokenizer, ids.shape[1])] if by_line else []
        rows = _written(lm, ids, mask, asked[0].tokens, ends, [watch], stops)
        replies = [_said(lm, row, ends, by_line, model) for row in rows]
    lm.token_counter.forward_tokens += sum(len(each.ids) for each in asked) + sum(map(len, rows))
    broken = JudgeError("the judge's logits hold NaN or infinity: it cannot answer")
    return [broken if bad else reply for bad, reply in zip(watch.broken, replies, strict=True)]


def _written(
    lm: LanguageModel, ids: Tensor, mask: Tensor, longest: int, ends: list[int], watching: list[Any], stopping: list[Any]
) -> list[list[int]]:
    """What the model writes behind each row, greedily; a row that has ended is filled up."""
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=longest,
        eos_token_id=ends or None,
        pad_token_id=(ends or [0])[0],
        use_cache=True,
    )
    with _settings_aside(lm.model), evaluation_mode(lm.model):
        written = lm.model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(watching),
            stopping_criteria=StoppingCriteriaList(stopping),
        )
    return written[:, ids.shape[1] :].tolist()


@contextmanager
def _settings_aside(model: Any) -> Iterator[None]:
    """Inside, the model has no generation settings of its own: what ours leave open would be taken from them, be it a penalty, tokens
    to suppress or a shortest length."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _ends(lm: LanguageModel) -> list[int]:
    """The tokens that end a reply: the tokenizer's own, and the model's."""
    named = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    found = {lm.tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])}
    return sorted(token for token in found if token is not None)


def _padded(lm: LanguageModel, asked: Sequence[_Asked]) -> tuple[Int[Tensor, "rows seq"], Int[Tensor, "rows seq"]]:
    """Ids that all end at the last column, and where they are. What stands before them is masked, whatever it is."""
    width = max(len(each.ids) for each in asked)
    ids = [[each.ids[0]] * (width - len(each.ids)) + list(each.ids) for each in asked]
    mask = [[0] * (width - len(each.ids)) + [1] * len(each.ids) for each in asked]
    return torch.tensor(ids, device=lm.device), torch.tensor(mask, device=lm.device)


def _said(lm: LanguageModel, row: list[int], ends: list[int], by_line: bool, model: str) -> Completion:
    """A reply up to what ends it; the rest is padding."""
    length = next((place for place, token in enumerate(row) if token in ends), len(row))
    text = lm.tokenizer.decode(row[:length], skip_special_tokens=True)
    line = text.lstrip().partition("\n") if by_line else (text, "", "")
    return Completion(line[0], "stop" if length < len(row) or line[1] else "length", model)
