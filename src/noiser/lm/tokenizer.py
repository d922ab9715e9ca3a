"""Turn text, chats or ids into a Prompt, and ids into text. Warn of prompts that are not what they seem."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import takewhile
from operator import index
from typing import Any, SupportsIndex

from noiser.errors import OptionError, PromptError
from noiser.lm.chat import Message, check_messages, encode_chat, find_turns, is_chat, reads, render
from noiser.lm.chat_spans import name_spans
from noiser.lm.documents import DOCUMENTS, find_documents, plain, read_documents
from noiser.lm.token_text import Offsets, TokenText, align, check_unicode, concatenate
from noiser.text.prompt import Prompt, read_template_args
from noiser.text.spans import merged, read_spans

Source = str | Sequence[int] | Sequence[Message] | Prompt | Mapping[str, Any]
"""A mapping has the prompt and its sources: `{"prompt": ..., "documents": [...]}`, or `spans`."""
WITH_SOURCES = {"prompt", "spans", "documents"}
UNREADABLE = "\ufffd"


class Tokens:
    """Read-only access to a tokenizer. The tokenizer stays exactly as the user left it."""

    def __init__(self, tokenizer: Any, limit: int | None, embedded: int, template_args: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.template_args = read_template_args(template_args or {})
        """What the chat template reads besides the messages."""
        self.limit = limit
        """The largest number of tokens that the model takes. None if its configuration names no limit."""
        self.size = min(len(tokenizer), embedded)
        """The number of ids that both the tokenizer and the model's embedding have."""
        self.embedded = embedded
        """The number of ids that the model's embedding has. The tokenizer may have no token for some of them."""
        added = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._special = frozenset([*tokenizer.all_special_ids, *added])
        self._token_text = TokenText(tokenizer)

    def prompt(self, source: Source, spans: Any = None, documents: Any = None) -> Prompt:
        """Make a prompt of text, of a chat (`[{"role": ..., "content": ...}, ...]`) or of token ids.

        spans      names for parts of the text, `[{"name": ..., "start": ..., "stop": ...}]` in characters of it, of a chat in characters
                   of the rendered chat (`Prompt.text`). A chat names its messages by itself.
        documents  sources that stand before the question or chat, `[{"title": ..., "text": ...}]`; each is a named span. They come
                   through the tokenizer's own template if that reads documents, else in plain text: see `noiser.lm.documents`.

        A mapping holds the prompt and one of the two: `{"prompt": ..., "documents": [...]}`, as a row of a file does.

        Text is tokenised with the tokenizer's own special tokens. A chat is rendered and tokenised by the tokenizer's own
        template, with the answer's header at the end; if the last message is the assistant's, its answer stays open. Contents
        may be lists of parts of text, and messages may call tools; see `noiser.lm.chat.check_messages`. Ids are taken as they
        are. A special token that is spelled out in text or in a message (`<|im_end|>`) usually becomes that token: to the
        model it looks like the template's own, but here it stays part of that message's turn.

        Offsets are the tokenizer's own if it has them. Otherwise, and for ids, they come from the concatenated tokens; if
        those are not the given text, they become the prompt's text.

        Raises PromptError if there are no tokens, or more than the model takes (nothing is ever truncated), if the text is
        not valid Unicode, if a message lacks role or content, or if the chat template is missing or refuses the messages.
        """
        source, spans, documents = split_sources(source, spans, documents)
        if documents is not None:
            if spans is not None:
                raise OptionError("give spans or documents, not both: each document is a span")
            return self._with_documents(source, read_documents(documents))
        if spans is not None:
            return self._with_spans(source, spans)
        if isinstance(source, Prompt):
            self._check(source.input_ids)
            return source
        if isinstance(source, str):
            check_unicode(source)
            return self._make_prompt(*self._encode(source, add_special_tokens=True), source)
        if is_chat(source):
            return self._chat_prompt(check_messages(source))
        return self._make_prompt(as_ids(source))

    def extended(self, prompt: Prompt, ids: Sequence[int]) -> Prompt:
        """The prompt followed by these tokens, which belong to no turn. Raises PromptError as `prompt` does."""
        if not ids:
            return prompt
        self._check_length(len(prompt) + len(ids))
        self._check_ids(ids)
        unfinished = self._unfinished(prompt)
        start = prompt.offsets[-unfinished][0] if unfinished else len(prompt.text)
        text, spans = concatenate([self._token_text.raw(i) for i in (*prompt.input_ids[len(prompt) - unfinished :], *ids)])
        known = len(prompt.offsets) == len(prompt)
        return Prompt(
            text=prompt.text[:start] + text,
            input_ids=(*prompt.input_ids, *ids),
            tokens=(*prompt.tokens, *map(self.surface, ids)),
            special=(*prompt.special, *(i in self._special for i in ids)),
            offsets=(*prompt.offsets[: len(prompt) - unfinished], *((start + a, start + b) for a, b in spans)) if known else (),
            turns=prompt.turns,
            spans=prompt.spans,
            warnings=prompt.warnings,
        )

    def ids(self, given: str | SupportsIndex | Sequence[int]) -> tuple[int, ...]:
        """The ids of tokens given as text (with its leading space), as one id, or as several ids.

        Text is tokenised by itself. `noiser.lm.following.follow` reads a text that follows a prompt.
        """
        if isinstance(given, str):
            check_unicode(given)
            ids: Sequence[int] = self._encode(given, add_special_tokens=False)[0]
        else:
            ids = _as_list(given)
        self._check_ids(ids)
        return tuple(ids)

    @property
    def unknown(self) -> int:
        """The id of the unknown token. Without one, the id of the padding token (as in Inseq)."""
        token_id = self.tokenizer.unk_token_id if self.tokenizer.unk_token_id is not None else self.tokenizer.pad_token_id
        if token_id is None:
            raise OptionError("this tokenizer has neither an unknown nor a padding token: use baseline=zero")
        return token_id

    def surface(self, token_id: int) -> str:
        """One token's text, with its leading space. A fragment of a character is shown as its bytes: `<0xF0><0x9F>`."""
        return self._token_text.read(token_id)

    def raw(self, token_id: int) -> bytes:
        """One token's UTF-8 bytes, with its leading space."""
        return self._token_text.raw(token_id)

    @property
    def spells_spaces(self) -> bool:
        """Whether tokens hold the spaces of a text. WordPiece leaves them out."""
        return self._token_text.spells_spaces

    @cached_property
    def vocabulary(self) -> dict[bytes, int]:
        """The id of each token's text, without special tokens. Of tokens with one text the lowest id that is no single byte's."""
        ids = (i for i in reversed(range(self.size)) if i not in self._special)
        return {self.raw(i): i for i in sorted(ids, key=self._token_text.is_byte, reverse=True)}

    def is_special(self, token_id: int) -> bool:
        """Whether the tokenizer marks the token as special."""
        return token_id in self._special

    def text(self, ids: Sequence[int]) -> str:
        """The text of tokens: of one as in `surface`, of several as the tokenizer decodes them."""
        if len(ids) == 1:
            return self.surface(ids[0])
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[list[int], Offsets | None]:
        """The text's ids, and the tokenizer's own offsets if it has them."""
        options = {"add_special_tokens": add_special_tokens, "padding": False, "truncation": False, **self._call_options()}
        try:
            with self._restored_backend():
                encoding = self.tokenizer(text, **options)
            return encoding["input_ids"], _offsets(encoding)
        except Exception as error:
            raise PromptError(f"the model's tokenizer fails on this text: {type(error).__name__}: {error}") from error

    def _call_options(self) -> dict[str, bool]:
        return {"verbose": False, "return_offsets_mapping": True} if self.tokenizer.is_fast else {"verbose": False}

    @contextmanager
    def _restored_backend(self) -> Iterator[None]:
        """Restore the padding and truncation of a fast tokenizer's backend, which a call changes."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        padding, truncation = (backend.padding, backend.truncation) if backend is not None else (None, None)
        try:
            yield
        finally:
            if backend is not None and padding is not None:
                backend.enable_padding(**padding)
            if backend is not None and truncation is not None:
                backend.enable_truncation(**truncation)

    def _chat_prompt(
        self, messages: list[dict[str, Any]], more_args: Mapping[str, Any] | None = None, documents: Sequence[Mapping[str, str]] = ()
    ) -> Prompt:
        template_args = self.template_args | dict(more_args or {})
        chat = render(self.tokenizer, messages, template_args)
        with self._restored_backend():
            encoding = encode_chat(self.tokenizer, chat.messages, template_args, **self._call_options())
        if encoding is None:
            prompt = self._make_prompt(*self._encode(chat.text, add_special_tokens=False), chat.text)
        else:
            prompt = self._make_prompt(encoding["input_ids"], _offsets(encoding), chat.text)
        is_known = prompt.text == chat.text
        turns = find_turns(messages, chat.spans if is_known else [[] for _ in messages], prompt)
        found, missing = find_documents(documents, chat.text)
        spans = merged(name_spans(chat.messages, chat.spans, chat.text), found) if is_known else ()
        return replace(prompt, turns=turns, spans=spans, warnings=(*chat.warnings, *missing))

    def _with_spans(self, source: Source, spans: Any) -> Prompt:
        prompt = self.prompt(source)
        if not prompt.offsets or (isinstance(source, str) and prompt.text != source):
            raise PromptError("this tokenizer's tokens do not spell the text, so that spans cannot be found in it")
        return replace(prompt, spans=read_spans(spans, prompt.text))

    def _with_documents(self, source: Source, documents: list[dict[str, str]]) -> Prompt:
        if not isinstance(source, str) and not is_chat(source):
            raise PromptError("documents stand before a question or a chat: give text or messages with them, not tokens")
        if reads(self.tokenizer, DOCUMENTS):
            messages = check_messages([{"role": "user", "content": source}] if isinstance(source, str) else source)
            return self._chat_prompt(messages, {DOCUMENTS: documents}, documents)
        if isinstance(source, str):
            return self._with_spans(*plain(documents, source))
        messages = check_messages(source)
        number = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
        if number is None or not isinstance(messages[number]["content"], str):
            raise PromptError("documents stand in the first message of the user: it is missing, or its content is a list of parts")
        messages[number] = {**messages[number], "content": plain(documents, messages[number]["content"])[0]}
        return self._chat_prompt(messages, {}, documents)

    def _make_prompt(self, ids: Sequence[int], offsets: Offsets | None = None, text: str | None = None) -> Prompt:
        self._check(ids)
        special = tuple(i in self._special for i in ids)
        if offsets is None or text is None:
            text, offsets = self._locate(ids, special, text)
        return Prompt(text, tuple(ids), tuple(self.surface(i) for i in ids), special, offsets)

    def _locate(self, ids: Sequence[int], special: Sequence[bool], text: str | None) -> tuple[str, Offsets]:
        """The text and the tokens' offsets in it, whether or not it spells out the special tokens around it. If the tokens do not
        fit the text, their own text replaces it."""
        raws = [self._token_text.raw(i) for i in ids]
        if text is not None:
            first = next((t for t, is_special in enumerate(special) if not is_special), len(ids))
            last = next((t for t in reversed(range(first, len(ids))) if not special[t]), len(ids) - 1)
            bare = [raw if first <= t <= last else b"" for t, raw in enumerate(raws)]
            for candidate in (raws, bare):
                if (offsets := align(candidate, text)) is not None:
                    return text, offsets
        return concatenate(raws)

    def _unfinished(self, prompt: Prompt) -> int:
        """The number of tokens at the prompt's end that begin a character which is not complete yet."""
        if not prompt.text.endswith(UNREADABLE) or len(prompt.offsets) != len(prompt):
            return 0
        ending = takewhile(lambda span: span[0] < span[1] == len(prompt.text), reversed(prompt.offsets))
        count = len(list(ending))
        text, _ = concatenate(self._token_text.raw(i) for i in prompt.input_ids[len(prompt) - count :])
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
        wrong = [i for i in ids if not 0 <= i < self.embedded]
        if wrong:
            raise PromptError(f"token ids go from 0 to {self.embedded - 1}; got {wrong[0]}")


def as_ids(source: Iterable[Any]) -> list[int]:
    """Token ids as plain ints. Raises PromptError for anything else."""
    try:
        return [index(i) for i in source]
    except TypeError as error:
        raise PromptError("a prompt is text, a list of token ids, or a list of messages with role and content") from error


def _as_list(given: Any) -> list[int]:
    """The ids in an int, list, tuple, array or tensor."""
    plain = given.tolist() if hasattr(given, "tolist") else given
    listed = list(plain) if isinstance(plain, list | tuple) else [plain]
    if not all(isinstance(token, SupportsIndex) and not isinstance(token, bool) for token in listed):
        raise OptionError(f"tokens are given as text, as an id or as ids; got {given!r}")
    return [index(token) for token in listed]


def _offsets(encoding: Mapping[str, Any]) -> Offsets | None:
    return tuple((start, stop) for start, stop in encoding["offset_mapping"]) if "offset_mapping" in encoding else None


def split_sources(source: Source, spans: Any = None, documents: Any = None) -> tuple[Any, Any, Any]:
    """The prompt, its spans and its documents, of a mapping that holds them or as they are. Raises PromptError for other fields."""
    if not isinstance(source, Mapping) or "prompt" not in source:
        return source, spans, documents
    if spans is not None or documents is not None:
        raise PromptError("this prompt is a mapping that holds its sources itself: give spans and documents there")
    if not set(source) <= WITH_SOURCES or isinstance(source["prompt"], Mapping):
        raise PromptError(f"a prompt with sources is a mapping of prompt, and spans or documents; it has {', '.join(map(str, source))}")
    return source["prompt"], source.get("spans"), source.get("documents")


def prompt_warnings(tokens: Tokens, source: Source, prompt: Prompt) -> Iterator[str]:
    """One sentence for each trap: a beginning token twice, an end token that the tokenizer adds, a space at the end, unknown ids.

    source  what the prompt was made of. A prompt that was made before has its warnings already.
    """
    if isinstance(source, Prompt):
        return
    bos = getattr(tokens.tokenizer, "bos_token_id", None)
    if bos is not None and prompt.input_ids[:2] == (bos, bos):
        yield (
            f"the prompt begins with {tokens.surface(bos)!r} twice: it is in the text or template, and the tokenizer adds it. "
            "Leave out one: models are trained with one"
        )
    if isinstance(source, str) and _adds_end(tokens, source, prompt):
        yield (
            f"the tokenizer adds {tokens.surface(prompt.input_ids[-1])!r} behind the prompt, so the model continues after an end, not the "
            "text. Give token ids without it, or load the tokenizer with add_eos_token=False"
        )
    if _ends_in_loose_space(tokens, source, prompt):
        yield (
            "the prompt ends in a space, which the tokenizer joins to the next word: the model hardly ever saw it alone. Leave it out, and "
            "give a target with its leading space"
        )
    yield from unknown_id_warnings(tokens, prompt.input_ids)


def unknown_id_warnings(tokens: Tokens, ids: Sequence[int]) -> Iterator[str]:
    """A warning if the model's embedding has ids that the tokenizer has no token for."""
    unknown = sorted({i for i in ids if not _has_token(tokens, i)})
    if unknown:
        shown = ", ".join(map(str, unknown[:3])) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        yield (
            f"the tokenizer has no token for id {shown}; the model's embedding has it, trained or not. It is explained as given and shown "
            f"as {tokens.surface(unknown[0])}"
        )


def _adds_end(tokens: Tokens, text: str, prompt: Prompt) -> bool:
    """Whether the last token is a special one that the text does not spell out."""
    last = prompt.input_ids[-1]
    return len(prompt) > 1 and prompt.special[-1] and last != prompt.input_ids[0] and not text.rstrip().endswith(tokens.surface(last))


def _ends_in_loose_space(tokens: Tokens, source: Source, prompt: Prompt) -> bool:
    """Whether the user's text ends in a space that would be part of the next word's token."""
    text = source if isinstance(source, str) else _open_answer(source)
    if not text or not text.strip() or text[-1] not in " \u3000" or not prompt.text.endswith(text[-1]) or not tokens.spells_spaces:
        return False
    own = tokens.ids(text)
    return any(tokens.ids(f"{text}{letter}")[: len(own)] != own for letter in "aT1")


def _open_answer(source: Any) -> str:
    """The text of a chat's last message if it is the assistant's, which the model continues. Else empty."""
    last = source[-1] if is_chat(source) and not isinstance(source, dict) else {}
    content = last.get("content") if last.get("role") == "assistant" else ""
    return content if isinstance(content, str) else ""


def _has_token(tokens: Tokens, token_id: int) -> bool:
    try:
        return bool(tokens.tokenizer.convert_ids_to_tokens(token_id))
    except (IndexError, KeyError, OverflowError, TypeError):  # what slow tokenizers raise for an id without a token
        return False
