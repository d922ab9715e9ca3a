"""Read a judge's reply: tolerant of the many forms in which models write a word, strict about what is no answer."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from noiser.judges.protocol import JudgePrompt, ReplyStatus, Variant
from noiser.results.answerability import Form

ORDINALS = ("first", "second", "third", "fourth", "fifth")
WORD = "word"
MAX_WORDS = 3
"""The most words of one answer: "New York City" is an answer, a sentence is not."""
PART_OF_WORDS = "#%&@\u00a7"
"""Unicode calls these punctuation; readers take them as part of a word."""
REFUSED_FINISHES = ("refusal", "content_filter")
CUT = "length"
INVALID: tuple[ReplyStatus, tuple[str, ...]] = ("invalid_answer", ())
REFUSED: tuple[ReplyStatus, tuple[str, ...]] = ("refused", ())

_REASONING = re.compile(r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
"""A model's reasoning. The server may have cut its beginning, the token limit its end."""
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>")
"""Tokens of a chat template that a server left in the text."""
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_PAGE = re.compile(r"<\s*(?:!doctype|\?xml|html|head|body|title)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"(?:(?:unfortunately|apologies|sorry)[,.!:;\s]+(?:but\s+)?)?"
    r"(?:(?:i['\u2019]?m|i am|we are|we['\u2019]re)\s+(?:(?:very|so|really|afraid)\s+)?(?:sorry|unable|not able|not allowed)\b"
    r"|i\s+(?:cannot|can\s?not|can['\u2019]?t|won['\u2019]?t|will not|could not|couldn['\u2019]?t|(?:must|have to) decline)\b"
    r"|(?:i|we)\s+apologi[sz]e\b|as an? (?:ai|artificial intelligence|(?:large )?language model)\b)",
    re.IGNORECASE,
)
_FILLER = re.compile(r"\A(?:sure|certainly|of course|okay|ok|absolutely)\b(?:[!.]+\s+|,?\s*\n\s*)(?=\S)", re.IGNORECASE)
_LEAD_WORD = r"\b(?:here|sure|json|words?|completions?|answers?|lists?|tokens?|guess(?:es)?|candidates?|options?|responses?|outputs?)\b"
_BEFORE_COLON = r"[^:\uff1a\n{\[]{0,200}"
_PREAMBLE = re.compile(rf"\A{_BEFORE_COLON}{_LEAD_WORD}{_BEFORE_COLON}(?:[:\uff1a]\s*|\bis\s+(?=[\"*\u201c]))", re.IGNORECASE)
"""Words before an answer. They end with a colon, or with "is" before a word in quotes."""
_JSON_LINE = re.compile(r"^[^\S\n]*(?=\{|\[\s*[\"\[{\]])", re.MULTILINE)
"""The start of a line that begins with JSON."""
_NUMBERED = re.compile(r"(?:^|(?<=\s))(?:\d{1,2}[.):]|\(\d{1,2}\)|\[\d{1,2}\])(?=\s|[^\W\d]|[\"'*_\u201c])\s*")
_BULLET = re.compile(r"^[^\S\n]*(?:[-+](?=\s|[^\W\d])|[\u2022\u00b7\u2013\u2014\u25cf\u25aa]|\*(?=\s))[^\S\n]*", re.MULTILINE)
_SEPARATOR = re.compile(r"[,\uff0c](?!\d)|[;\uff1b\u3001\u060c\u061b|]")
_BOLD = re.compile(r"(\*\*|__)(.+?)\1")
_REMARK = re.compile(r"\s+[-\u2013\u2014]+\s.*|\s*[:\uff1a]\s.*|\s+[(\uff08].*", re.DOTALL)
"""An explanation behind a word in a list."""
_EDGES = (
    " \t\r\n\"'`*_.,;:!?()[]{}<>\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e\u2026\u2039\u203a\u060c\u061f"
    "\u3001\u3002\u300c\u300d\u300e\u300f\uff01\uff0c\uff1f\ufeff"
)
_BLANKS = re.compile(r"\s+")
_FINISHED_STRING = re.compile(r'("(?:[^"\\]|\\.)*+")\s*+(?=[,\]])|"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""Strings of a JSON array. The group holds a finished one; any other is passed over as a whole, so that the time is linear."""


def parse_reply(text: str, finish: str, prompt: JudgePrompt, structured: bool) -> tuple[ReplyStatus, tuple[str, ...]]:
    """Return a reply's status and its words, most probable first, as the judge wrote them. No words unless the status is `ok`.

    text        the reply; any text is allowed
    finish      why it ended. After `length` the last word may be cut and does not count.
    prompt      what was asked: `top1` takes one word, `top5` at most five, `official` every word of the reply as it is
    structured  whether a JSON object was asked for. If so, only JSON is an answer.
    """
    if finish in REFUSED_FINISHES:
        return REFUSED
    if prompt.variant == "official":
        return "ok", tuple(text.split())
    bare = _without_wrapping(text)
    words = _from_json(bare, prompt.form, cut=finish == CUT)
    if words is None:
        if _REFUSAL.match(bare.lstrip(_EDGES)):
            return REFUSED
        if structured or _PAGE.search(bare):
            return INVALID
        words = _from_prose(bare, prompt.form, cut=finish == CUT)
    return _status_and_answers(words, prompt.form)


def was_cut_while_reasoning(text: str, finish: str) -> bool:
    """Whether the token limit cut a reply off before its first word: in the middle of reasoning, visible or hidden."""
    return finish == CUT and not _REASONING.sub("", text).strip()


def _status_and_answers(words: Sequence[str], form: Form) -> tuple[ReplyStatus, tuple[str, ...]]:
    if words and _REFUSAL.match(words[0]):
        return REFUSED
    answers = tuple(word for word in map(_clean, words) if _is_word(word))
    if not answers or (form == "top1" and len(words) != 1):
        return INVALID
    return "ok", answers[: len(ORDINALS)]


def _without_wrapping(text: str) -> str:
    """Return a reply without reasoning, code fence and lead-in words."""
    text = _SPECIAL.sub("", _REASONING.sub("", text)).replace("\r\n", "\n").lstrip("\ufeff \t\n")
    fenced = _FENCE.search(text)
    text = fenced[1] if fenced and fenced[1].strip() else text
    text = _PREAMBLE.sub("", _FILLER.sub("", text, count=1), count=1).lstrip()
    block = _JSON_LINE.search(text)
    return text[block.end() :] if block and not _is_word(_clean(text[: block.start()])) else text


def _from_json(text: str, form: Form, *, cut: bool) -> list[str] | None:
    """Return the words of a JSON object, array or string: no words if it is broken or has another shape. None if there is no JSON."""
    if not re.match(r'[{"]|\[\s*(?:["\[{\]]|-?[\d.]+\s*,)', text):
        return None
    try:
        value, stop = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        if text.startswith('"'):
            return None
        finished = [word for word in map(_json_string, _FINISHED_STRING.findall(text)) if word] if cut and text.startswith("[") else []
        return finished if form == "top5" and len(finished) >= len(ORDINALS) else []
    if isinstance(value, str):
        return [value] if not text[stop:].strip(_EDGES) else None
    return _strings(value, form)


def _json_string(text: str) -> str:
    try:
        return json.loads(text)
    except ValueError:
        return ""


def _strings(value: Any, form: Form) -> list[str]:
    """Return the words in a JSON value, in the order of the form. Empty if the value has not the shape of an answer."""
    if isinstance(value, dict):
        keys = (WORD,) if form == "top1" else ORDINALS
        values = [value[key] for key in keys] if all(key in value for key in keys) else list(value.values())
        value = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return []
    return value


def _from_prose(text: str, form: Form, *, cut: bool) -> list[str]:
    """Return the words of a reply in plain text: a numbered or bulleted list, one word a line, or words between commas."""
    cut = cut and not text.endswith("\n")
    listed = _list_items(text)
    if listed is not None:
        return _without_cut_word(listed, form, cut=cut)
    lines = [line for line in text.splitlines() if line.strip(_EDGES)]
    items = [item for line in lines[:1] for item in _SEPARATOR.split(line) if item.strip(_EDGES)]
    if form == "top1":
        items = [_without_remark(item) for item in items[:1]] + items[1:]
        return _first_line(text, items, cut=cut and len(lines) < 2)
    if len(items) > 1:
        return _without_cut_word(_without_and(items), form, cut=cut and len(lines) < 2)
    words = items[0].split() if items and len(lines) == 1 else []
    is_row_of_five = len(words) == len(ORDINALS) and words[-1][-1].isalnum()
    return _without_cut_word(words if is_row_of_five else lines, form, cut=cut)


def _first_line(text: str, items: list[str], *, cut: bool) -> list[str]:
    """Return the items of the first line, or all lines of the first paragraph if each of them is a word: several answers."""
    paragraph = [line for line in text.strip().split("\n\n")[0].splitlines() if line.strip(_EDGES)]
    if len(paragraph) > 1 and all(_is_word(_clean(line)) for line in paragraph):
        return paragraph
    return [] if cut else items


def _list_items(text: str) -> list[str] | None:
    """Return the items of a list with numbers or bullets, without remarks behind them. None if the text is no such list."""
    for mark in (_NUMBERED, _BULLET):
        before, *items = mark.split(text)
        if items and (len(items) > 1 or not before.strip()):
            lines = [next(iter(item.strip().splitlines()), "") for item in items]
            return [word for word in map(_without_remark, lines) if word.strip(_EDGES)]
    return None


def _without_remark(item: str) -> str:
    bold = _BOLD.match(item)
    return bold[2] if bold else _REMARK.sub("", _BLANKS.sub(" ", item))  # on long blanks the remark takes quadratic time


def _without_and(items: list[str]) -> list[str]:
    return [*items[:-1], re.sub(r"^\s*(?:and|or)\s+", "", items[-1], flags=re.IGNORECASE)]


def _without_cut_word(items: list[str], form: Form, *, cut: bool) -> list[str]:
    """Return the items; of a reply that was cut only the finished ones, and none if fewer are finished than were asked for."""
    if not cut:
        return items
    finished = items[:-1]
    return finished if len(finished) >= (len(ORDINALS) if form == "top5" else 1) else []


def _clean(answer: str) -> str:
    return " ".join(answer.strip(_EDGES).split())


def _is_word(answer: str) -> bool:
    """Whether it has at most three words, and something other than punctuation."""
    kinds = {unicodedata.category(character) for character in answer}
    return len(answer.split()) <= MAX_WORDS and any(kind[0] in "LN" or kind in ("So", "Sc") for kind in kinds)


def normalize_word(word: str) -> str:
    """Return a word as the paper compares it: Unicode form NFKC, no case, single spaces, no punctuation at its ends.

    Punctuation stays if the word has nothing else. Accents stay, and so do signs that are part of a name: C++, C#, 50 %.
    """
    folded = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold()).split())
    inside = [index for index, character in enumerate(folded) if _is_inside(character)]
    return folded[inside[0] : inside[-1] + 1] if inside else folded


def _is_inside(character: str) -> bool:
    """Whether a word may begin or end with this character."""
    return character not in "`~^\u00b4" and (character in PART_OF_WORDS or unicodedata.category(character)[0] not in "PZC")


def is_correct(answers: Sequence[str], gold: str, form: Form, variant: Variant) -> bool:
    """Whether the gold word is the first answer (`top1`) or any answer (`top5`).

    `paper` compares normalized words. `official` compares the words as they are, and strips the gold word alone.
    """
    counted = answers[:1] if form == "top1" else answers
    if variant == "official":
        return gold.strip() in counted
    expected = normalize_word(gold)
    return bool(expected) and any(normalize_word(answer) == expected for answer in counted)
