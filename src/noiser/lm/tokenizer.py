"""Text, chats or ids to a Prompt, and ids to what they read like."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile
from operator import index
from typing import Any, SupportsIndex

from noiser.errors import OptionError, PromptError
from noiser.lm.chat import Message, checked, contents, is_chat, rendered, turns
from noiser.lm.token_text import Offsets, TokenText, fitted, laid_out
from noiser.text.prompt import Prompt

Source = str | Sequence[int] | Sequence[Message] | Prompt
UNREADABLE = "\ufffd"


class Tokens:
    """A tokenizer, read only: nothing about it is ever set, so it stays as the user left it."""

    def __init__(self, tokenizer: Any, limit: int | None, embedded: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit
        """The most tokens the model takes; None where its configuration names no limit."""
        self.size = min(len(tokenizer), embedded)
        """How many ids both the tokenizer and the model's embedding know."""
        marked = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._special = frozenset([*tokenizer.all_special_ids, *marked])
        self._surfaces = TokenText(tokenizer)

    def prompt(self, source: Source) -> Prompt:
        """Text, tokenised with the tokenizer's own special tokens; a chat, as `[{"role": ..., "content": ...}, ...]`; or ids.

        A chat is rendered and tokenised by the tokenizer's own template, with the answer's header at the end; where the
        last message is the assistant's, its answer is left open to be continued. A special token spelled out in text or
        in a message (`<|im_end|>`) is whatever the tokenizer makes of it, as a rule that token: it then looks to the
        model like the template's own, but stays part of that message's turn here. Ids are taken as they are.

        Offsets are the tokenizer's own where it has them; of ids, and of tokenizers without offsets, they are found by
        laying the tokens end to end, and where that is not the given text, it becomes the prompt's text.

        Raises PromptError where there are no tokens, more than the model takes (nothing is ever truncated), where the text
        is not valid Unicode, for a message without role or content, and where there is no chat template or it refuses
        the messages.
        """
        if isinstance(source, Prompt):
            self._check(source.input_ids)
            return source
        if isinstance(source, str):
            check_unicode(source)
            return self._prompt(*self._encoded(source, add_special_tokens=True), source)
        if is_chat(source):
            return self._chat(checked(source))
        return self._prompt(as_ids(source))

    def extended(self, prompt: Prompt, ids: Sequence[int]) -> Prompt:
        """The prompt followed by these tokens, which belong to none of its turns. Raises PromptError as `prompt` does."""
        if not ids:
            return prompt
        self._check_length(len(prompt) + len(ids))
        self._check_ids(ids)
        before = self._unfinished(prompt)
        start = prompt.offsets[-before][0] if before else len(prompt.text)
        text, spans = laid_out([self._surfaces.raw(i) for i in (*prompt.input_ids[len(prompt) - before :], *ids)])
        known = len(prompt.offsets) == len(prompt)
        return Prompt(
            text=prompt.text[:start] + text,
            input_ids=(*prompt.input_ids, *ids),
            tokens=(*prompt.tokens, *map(self.surface, ids)),
            special=(*prompt.special, *(i in self._special for i in ids)),
            offsets=(*prompt.offsets[: len(prompt) - before], *((start + a, start + b) for a, b in spans)) if known else (),
            turns=prompt.turns,
        )

    def ids(self, words: str | SupportsIndex | Sequence[int]) -> tuple[int, ...]:
        """The ids of a target or continuation, given as text (its leading space included), as an id or as ids."""
        if isinstance(words, str):
            check_unicode(words)
            found: Sequence[int] = self._encoded(words, add_special_tokens=False)[0]
        else:
            found = _listed(words)
        self._check_ids(found)
        return tuple(found)

    @property
    def unknown(self) -> int:
        """The id that stands for an unknown token; where there is none the padding token's (as in Inseq)."""
        found = self.tokenizer.unk_token_id if self.tokenizer.unk_token_id is not None else self.tokenizer.pad_token_id
        if found is None:
            raise OptionError("this tokenizer has neither an unknown nor a padding token: use baseline=zero")
        return found

    def surface(self, token_id: int) -> str:
        """What one token reads like, with its leading space; a fragment of a character as its bytes, `<0xF0><0x9F>`."""
        return self._surfaces.read(token_id)

    def raw(self, token_id: int) -> bytes:
        """One token's bytes, leading space included."""
        return self._surfaces.raw(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether the tokenizer marks it as special."""
        return token_id in self._special

    def text(self, ids: Sequence[int]) -> str:
        """What tokens read like: one as `surface` has it, several as the tokenizer puts them together."""
        if len(ids) == 1:
            return self.surface(ids[0])
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _encoded(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], Offsets | None]:
        """The text's ids, and the tokenizer's own offsets where it has them."""
        with self._as_found():
            found = self.tokenizer(text, add_special_tokens=add_special_tokens, padding=False, truncation=False, **self._asked())
        return found["input_ids"], _offsets(found)

    def _asked(self) -> dict[str, bool]:
        return {"verbose": False, "return_offsets_mapping": True} if self.tokenizer.is_fast else {"verbose": False}

    @contextmanager
    def _as_found(self) -> Iterator[None]:
        """To call a fast tokenizer sets the padding and truncation of its backend, so they are put back."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        padding, truncation = (backend.padding, backend.truncation) if backend is not None else (None, None)
        try:
            yield
        finally:
            if backend is not None and padding is not None:
                backend.enable_padding(**padding)
            if backend is not None and truncation is not None:
                backend.enable_truncation(**truncation)

    def _chat(self, messages: list[dict[str, Any]]) -> Prompt:
        for message in messages:
            check_unicode(message["role"])
            check_unicode(message["content"])
        with self._as_found():
            found = rendered(self.tokenizer, messages, tokenize=True, return_dict=True, tokenizer_kwargs=self._asked())
        text = rendered(self.tokenizer, messages, tokenize=False)
        prompt = self._prompt(found["input_ids"], _offsets(found), text)
        spans = contents(self.tokenizer, messages, text) if prompt.text == text else [(0, 0)] * len(messages)
        return replace(prompt, turns=turns(messages, spans, prompt))

    def _prompt(self, ids: Sequence[int], offsets: Offsets | None = None, text: str | None = None) -> Prompt:
        self._check(ids)
        special = tuple(i in self._special for i in ids)
        if offsets is None or text is None:
            text, offsets = self._placed(ids, special, text)
        return Prompt(text, tuple(ids), tuple(self.surface(i) for i in ids), special, offsets)

    def _placed(self, ids: Sequence[int], special: Sequence[bool], text: str | None) -> tuple[str, Offsets]:
        """Where the tokens are in the text, special ones around it written out or not; else the tokens end to end as the text."""
        raws = [self._surfaces.raw(i) for i in ids]
        if text is not None:
            first = next((t for t, apart in enumerate(special) if not apart), len(ids))
            last = next((t for t in reversed(range(first, len(ids))) if not special[t]), len(ids) - 1)
            bare = [raw if first <= t <= last else b"" for t, raw in enumerate(raws)]
            for tried in (raws, bare):
                if (offsets := fitted(tried, text)) is not None:
                    return text, offsets
        return laid_out(raws)

    def _unfinished(self, prompt: Prompt) -> int:
        """How many tokens at the end of a prompt are the beginning of a character that its text does not have yet."""
        if not prompt.text.endswith(UNREADABLE) or len(prompt.offsets) != len(prompt):
            return 0
        ending = takewhile(lambda span: span[0] < span[1] == len(prompt.text), reversed(prompt.offsets))
        count = len(list(ending))
        text, _ = laid_out(self._surfaces.raw(i) for i in prompt.input_ids[len(prompt) - count :])
        return count if count and prompt.text[prompt.offsets[-count][0] :] == text else 0

    def _check(self, ids: Sequence[int]) -> None:
        if not len(ids):
            raise PromptError("the prompt has no tokens (this tokenizer adds none of its own): give at least one character")
        self._check_length(len(ids))
        self._check_ids(ids)

    def _check_length(self, length: int) -> None:
        if self.limit is not None and length > self.limit:
            raise PromptError(
                f"the prompt has {length:,} tokens and the model takes {self.limit:,}; nothing is ever cut off silently: shorten it"
            )

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = [i for i in ids if not 0 <= i < self.size]
        if wrong:
            raise PromptError(f"token ids go from 0 to {self.size - 1}; got {wrong[0]}")


def as_ids(source: Iterable[Any]) -> list[int]:
    """Whole numbers as plain ints. Raises PromptError for anything else."""
    try:
        return [index(i) for i in source]
    except TypeError as error:
        raise PromptError("a prompt is text, a list of token ids, or a list of messages with role and content") from error


def _listed(words: Any) -> list[int]:
    """An id, or ids in a list, tuple, array or tensor."""
    plain = words.tolist() if hasattr(words, "tolist") else words
    listed = list(plain) if isinstance(plain, list | tuple) else [plain]
    if not all(isinstance(each, SupportsIndex) and not isinstance(each, bool) for each in listed):
        raise OptionError(f"tokens are given as text, as an id or as ids; got {words!r}")
    return [index(each) for each in listed]


def _offsets(found: Mapping[str, Any]) -> Offsets | None:
    return tuple((start, stop) for start, stop in found["offset_mapping"]) if "offset_mapping" in found else None


def check_unicode(text: str) -> None:
    """Raises PromptError at the first lone surrogate, which no tokenizer takes."""
    for position, character in enumerate(text):
        if "\ud800" <= character <= "\udfff":
            raise PromptError(f"the text is not valid Unicode: lone surrogate U+{ord(character):04X} at character {position}")
