"""Warnings about prompts that a model hardly ever saw in its training, though nothing is wrong with them."""

from collections.abc import Iterator, Sequence
from typing import Any

from noiser.lm.chat import is_chat
from noiser.lm.tokenizer import Source, Tokens
from noiser.text.prompt import Prompt


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
