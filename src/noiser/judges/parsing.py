"""A judge's words, read: tolerant of the many forms in which models say a word, strict about what is no answer at all."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from noiser.judges.protocol import JudgePrompt, ReplyStatus, Variant
from noiser.results.answerability import Form

PLACES = ("first", "second", "third", "fourth", "fifth")
WORD = "word"
MOST_WORDS = 3
"""Of an answer: "New York City" is one, a sentence is none."""
KEPT = "#%&@\u00a7"
"""Punctuation to Unicode, and part of a word to its readers."""
REFUSALS = ("refusal", "content_filter")
LENGTH = "length"
INVALID: tuple[ReplyStatus, tuple[str, ...]] = ("invalid_answer", ())
REFUSED: tuple[ReplyStatus, tuple[str, ...]] = ("refused", ())

_THOUGHT = re.compile(r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)
"""What a model thought aloud, with its beginning left out by the server or its end by the limit."""
_SPECIAL = re.compile(r"<\|[^|<>\s]{1,40}\|>|</?s>")
"""Marks of a chat template that a server let through."""
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
_CUE = r"\b(?:here|sure|json|words?|completions?|answers?|lists?|tokens?|guess(?:es)?|candidates?|options?|responses?|outputs?)\b"
_PREAMBLE = re.compile(rf"\A[^:\uff1a\n{{\[]{{0,200}}{_CUE}[^:\uff1a\n{{\[]{{0,200}}(?:[:\uff1a]\s*|\bis\s+(?=[\"*\u201c]))", re.IGNORECASE)
"""What leads up to an answer: words that end with a colon, or with "is" before a word in quotes."""
_BLOCK = re.compile(r"^[^\S\n]*(?=\{|\[\s*[\"\[{\]])", re.MULTILINE)
"""Where a line begins with JSON."""
_NUMBERED = re.compile(r"(?:^|(?<=\s))(?:\d{1,2}[.):]|\(\d{1,2}\)|\[\d{1,2}\])(?=\s|[^\W\d]|[\"'*_\u201c])\s*")
_BULLET = re.compile(r"^[^\S\n]*(?:[-+](?=\s|[^\W\d])|[\u2022\u00b7\u2013\u2014\u25cf\u25aa]|\*(?=\s))[^\S\n]*", re.MULTILINE)
_SEPARATOR = re.compile(r"[,\uff0c](?!\d)|[;\uff1b\u3001\u060c\u061b|]")
_BOLD = re.compile(r"(\*\*|__)(.+?)\1")
_REMARK = re.compile(r"\s+[-\u2013\u2014]+\s.*|\s*[:\uff1a]\s.*|\s+[(\uff08].*", re.DOTALL)
"""What follows a word in a list: why it is there."""
_EDGES = (
    " \t\r\n\"'`*_.,;:!?()[]{}<>\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e\u2026\u2039\u203a\u060c\u061f"
    "\u3001\u3002\u300c\u300d\u300e\u300f\uff01\uff0c\uff1f\ufeff"
)
_FINISHED = re.compile(r'("(?:[^"\\]|\\.)*")\s*(?=[,\]])', re.DOTALL)


def read(text: str, finish: str, clue: JudgePrompt, structured: bool) -> tuple[ReplyStatus, tuple[str, ...]]:
    """What a reply says: a status, and the words that it names, most probable first, as it wrote them; none unless `ok`.

    text        the reply, whatever is in it
    finish      why it ended; `length`: what stands last may be cut and does not count
    clue        what was asked: one word with `top1`, at most five with `top5`; `official` takes every word of the reply as it is
    structured  whether a JSON object was asked for; then nothing but JSON is an answer
    """
    if finish in REFUSALS:
        return REFUSED
    if clue.variant == "official":
        return "ok", tuple(text.split())
    bare = _bare(text)
    found = _from_json(bare, clue.form, cut=finish == LENGTH)
    if found is None:
        if _REFUSAL.match(bare.lstrip(_EDGES)):
            return REFUSED
        if structured or _PAGE.search(bare):
            return INVALID
        found = _from_prose(bare, clue.form, cut=finish == LENGTH)
    return _judged(found, clue.form)


def thinking(text: str, finish: str) -> bool:
    """Whether the limit cut a reply off before a word of it was said: in the middle of a thought, or of one that is not shown."""
    return finish == LENGTH and not _THOUGHT.sub("", text).strip()


def _judged(found: Sequence[str], form: Form) -> tuple[ReplyStatus, tuple[str, ...]]:
    if found and _REFUSAL.match(found[0]):
        return REFUSED
    answers = tuple(each for each in map(_cleaned, found) if _is_word(each))
    if not answers or (form == "top1" and len(found) != 1):
        return INVALID
    return "ok", answers[: len(PLACES)]


def _bare(text: str) -> str:
    """A reply without what a model thought before it, without wrapping and without the words that lead up to the answer."""
    text = _SPECIAL.sub("", _THOUGHT.sub("", text)).replace("\r\n", "\n").lstrip("\ufeff \t\n")
    fenced = _FENCE.search(text)
    text = fenced[1] if fenced and fenced[1].strip() else text
    text = _PREAMBLE.sub("", _FILLER.sub("", text, count=1), count=1).lstrip()
    block = _BLOCK.search(text)
    return text[block.end() :] if block and not _is_word(_cleaned(text[: block.start()])) else text


def _from_json(text: str, form: Form, *, cut: bool) -> list[str] | None:
    """The words of a JSON object, array or string; nothing where it is broken or of another shape. None where there is no JSON."""
    if not re.match(r'[{"]|\[\s*(?:["\[{\]]|-?[\d.]+\s*,)', text):
        return None
    try:
        value, stop = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        if text.startswith('"'):
            return None
        finished = [each for each in map(_loaded, _FINISHED.findall(text)) if each] if cut and text.startswith("[") else []
        return finished if form == "top5" and len(finished) >= len(PLACES) else []
    if isinstance(value, str):
        return [value] if not text[stop:].strip(_EDGES) else None
    return _strings(value, form)


def _loaded(text: str) -> str:
    try:
        return json.loads(text)
    except ValueError:
        return ""


def _strings(value: Any, form: Form) -> list[str]:
    """The words in a JSON value, in the order of the form; empty where its shape is not that of an answer."""
    if isinstance(value, dict):
        keys = (WORD,) if form == "top1" else PLACES
        values = [value[key] for key in keys] if all(key in value for key in keys) else list(value.values())
        value = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        return []
    return value


def _from_prose(text: str, form: Form, *, cut: bool) -> list[str]:
    """The words of a reply in plain text: a numbered or bulleted list, one a line, or with commas between them."""
    cut = cut and not text.endswith("\n")
    listed = _listed(text)
    if listed is not None:
        return _whole(listed, form, cut=cut)
    lines = [line for line in text.splitlines() if line.strip(_EDGES)]
    items = [each for line in lines[:1] for each in _SEPARATOR.split(line) if each.strip(_EDGES)]
    if form == "top1":
        items = [_without_remark(each) for each in items[:1]] + items[1:]
        return _first_line(text, items, cut=cut and len(lines) < 2)
    if len(items) > 1:
        return _whole(_without_and(items), form, cut=cut and len(lines) < 2)
    words = items[0].split() if len(lines) == 1 else []
    return _whole(words if len(words) == len(PLACES) and words[-1][-1].isalnum() else lines, form, cut=cut)


def _first_line(text: str, items: list[str], *, cut: bool) -> list[str]:
    """What the first line says; all lines of the first paragraph where each of them is a word: several answers, then."""
    paragraph = [line for line in text.strip().split("\n\n")[0].splitlines() if line.strip(_EDGES)]
    if len(paragraph) > 1 and all(_is_word(_cleaned(line)) for line in paragraph):
        return paragraph
    return [] if cut else items


def _listed(text: str) -> list[str] | None:
    """The items of a list with numbers or bullets, without the remarks that follow them; None where it is no such list."""
    for mark in (_NUMBERED, _BULLET):
        before, *items = mark.split(text)
        if items and (len(items) > 1 or not before.strip()):
            lines = [next(iter(item.strip().splitlines()), "") for item in items]
            return [each for each in map(_without_remark, lines) if each.strip(_EDGES)]
    return None


def _without_remark(item: str) -> str:
    bold = _BOLD.match(item)
    return bold[2] if bold else _REMARK.sub("", item)


def _without_and(items: list[str]) -> list[str]:
    return [*items[:-1], re.sub(r"^\s*(?:and|or)\s+", "", items[-1], flags=re.IGNORECASE)]


def _whole(items: list[str], form: Form, *, cut: bool) -> list[str]:
    """The items, unless the reply was cut before as many were finished as were asked for."""
    if not cut:
        return items
    finished = items[:-1]
    return finished if len(finished) >= (len(PLACES) if form == "top5" else 1) else []


def _cleaned(answer: str) -> str:
    return " ".join(answer.strip(_EDGES).split())


def _is_word(answer: str) -> bool:
    """At most three words, with something in it that is no punctuation."""
    kinds = {unicodedata.category(character) for character in answer}
    return len(answer.split()) <= MOST_WORDS and any(kind[0] in "LN" or kind in ("So", "Sc") for kind in kinds)


def plain(word: str) -> str:
    """A word as the paper compares it: Unicode form NFKC, no case, single spaces, no punctuation or marks of emphasis at its ends
    (unless it has nothing else). Accents stay, and so do the signs that are part of a name: C++, C#, 50 %."""
    folded = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold()).split())
    inside = [place for place, character in enumerate(folded) if character in KEPT or unicodedata.category(character)[0] not in "PZC"]
    inside = [place for place in inside if folded[place] not in "`~^\u00b4"]
    return folded[inside[0] : inside[-1] + 1] if inside else folded


def correct(answers: Sequence[str], gold: str, form: Form, variant: Variant) -> bool:
    """Whether the gold word is the first answer (`top1`) or any of them (`top5`).

    `paper` compares `plain` forms; `official` the words as they are, with the blanks around the gold word left out.
    """
    some = answers[:1] if form == "top1" else answers
    if variant == "official":
        return gold.strip() in some
    wanted = plain(gold)
    return bool(wanted) and any(plain(each) == wanted for each in some)
