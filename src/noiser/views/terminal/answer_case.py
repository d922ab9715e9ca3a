"""One answerability case in a terminal, as in the paper's figure 1: the prompt with its kept words marked, and the judges' replies."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text

from noiser.results.answer_case import KEPT, Case, Ruling
from noiser.views.labels import visible
from noiser.views.palette import style
from noiser.views.terminal.attribution import plain_text, question, warnings

MARKS = ("[]", "{}", "\u00ab\u00bb", "<>")
"""Pairs of characters around a kept word. The first pair that the prompt does not contain is used."""
MAX_WORDS = 40
"""Words of a list that are shown."""
MAX_KEPT_REPLY, MAX_REPLY = 200, 60
"""Characters of a reply to the kept words, and of any other reply or word."""
FORM_NAMES = {"top1": "one word", "top5": "five words"}
VERDICTS = {"ok": "", "refused": "refused", "invalid_answer": "no answer"}
HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{20,}")
RIGHT, WRONG = Style(color="green", bold=True), Style(color="red")


def to_text(case: Case, width: int = 100) -> str:
    """The case without colour, as `print` shows it."""
    return plain_text(render_case(case), width)


def render_case(case: Case) -> RenderableType:
    """The question, the marked prompt, each judge's verdict and replies, and what makes the verdicts doubtful."""
    blocks: list[RenderableType] = [question(case.attribution.target, case.attribution.model), Text()]
    blocks += [Padding(_prompt(case), (0, 2)), Text(), *_legend(case)]
    for ruling in case.rulings:
        blocks += [Text(), *_judge(case, ruling)]
    return Group(*blocks, *_doubts(case), *warnings(case.attribution))


def _prompt(case: Case) -> Text:
    """The prompt and the target. Kept words stand between marks, coloured by score."""
    text = case.attribution.prompt.text
    marks = _marks(text)
    scores = [case.detail["scores"][word] for word in dict.fromkeys(case.detail.get("kept", ()))]
    largest = float(np.abs(case.detail.get("scores", ())).max(initial=0.0)) or 1.0
    prompt, end = Text(), 0
    for (start, stop), score in zip(case.spans, scores, strict=False):
        prompt.append(visible(text[end:start]))
        prompt.append(marks[0], "dim").append(visible(text[start:stop]), style(score / largest, special=False)).append(marks[1], "dim")
        end = stop
    return prompt.append(visible(text[end:])).append("  \u2192", "dim").append(f" {visible(case.gold)}", "bold")


def _marks(text: str) -> str:
    return next((pair for pair in MARKS if not set(pair) & set(text)), MARKS[-1])


def _legend(case: Case) -> list[Text]:
    detail = case.detail
    if not detail:
        return []
    marks = _marks(case.attribution.prompt.text)
    mass = "the released code's scores of these sum to" if case.options["variant"] == "official" else "their share of all scores is"
    words = f"the {len(case.kept)} of {len(detail['words'])} words that score highest by {case.attribution.method}"
    return [Text(visible(f"{marks[0]}kept{marks[1]}: {words}; {mass} {detail['mass']:.2f}"), style="dim")]


def _judge(case: Case, ruling: Ruling) -> list[RenderableType]:
    """A judge's name, its verdict, and a table of its replies."""
    name = ruling.judge
    served_model = HASH.sub("\\1\u2026", ruling.first.get("model") or "")
    model = f" ({visible(served_model)})" if served_model and served_model not in name else ""
    heading = Text.assemble("Judge ", (visible(name), "bold"), model, ": ", _verdict(case, ruling))
    return [heading, *([_replies(ruling)] if ruling.forms else [])]


def _verdict(case: Case, ruling: Ruling) -> Text:
    if ruling.correct is None:
        return Text(f"no verdict, {visible(ruling.status)}: {visible(ruling.message)}", style="yellow")
    if ruling.correct:
        return Text(f"the kept words are enough for {visible(repr(case.gold))}", style=RIGHT)
    reason = {"refused": ", for it refused to answer", "invalid_answer": ", for its reply holds no answer"}.get(ruling.status, "")
    if any(replies[KEPT]["correct"] for replies in ruling.forms.values()):
        reason += ", though it is among five words"
    return Text(f"the kept words are not enough for {visible(repr(case.gold))}{reason}", style=WRONG)


def _replies(ruling: Ruling) -> Table:
    """A row for each condition (what the judge saw), and a column for each form (how many words it was asked for)."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    table.add_column("it saw", ratio=2, overflow="fold")
    for form in ruling.forms:
        table.add_column(Text(f"asked for {FORM_NAMES.get(form, visible(form))}"), ratio=2, overflow="fold")
    for condition, reply in next(iter(ruling.forms.values())).items():
        cells = [_reply(condition, replies.get(condition, {})) for replies in ruling.forms.values()]
        table.add_row(_condition(condition, reply), *cells)
    return table


def _condition(condition: str, reply: Mapping[str, Any]) -> Text:
    """What the judge saw."""
    words = list(reply["shown"])
    if condition == KEPT:
        return Text.assemble("the kept words: ", (_word_list(words), "bold"))
    if condition == "all":
        return Text(f"all {len(words)} words")
    if condition == "none":
        return Text("no words")
    if condition == "canary":
        return Text(f"all words and an order: {_word_list(words[-6:])}")
    return Text(f"{'shuffled' if condition == 'shuffled' else 'random words'}: {_word_list(words)}")


def _reply(condition: str, reply: Mapping[str, Any]) -> Text:
    """A verdict and the answers, or the reply itself if no answer was found in it."""
    if not reply:
        return Text()
    correct, status = reply["correct"], VERDICTS.get(reply["status"], reply["status"])
    if condition == "canary":
        verdict = Text("obeyed" if correct else status or "not obeyed", style=WRONG if correct else "")
    else:
        verdict = Text("right" if correct else status or "wrong", style=RIGHT if correct else WRONG)
    if not reply["said"].strip():
        return Text("an empty reply", style=WRONG)
    limit = MAX_KEPT_REPLY if condition == KEPT else MAX_REPLY
    answers = _word_list(reply["answers"]) if reply["answers"] else _clip(reply["said"], limit)
    return Text.assemble(verdict, f": {answers}" if answers else "")


def _word_list(words: Sequence[str]) -> str:
    """The words with dots between them: a word may itself be a comma."""
    more = f" and {len(words) - MAX_WORDS} more" if len(words) > MAX_WORDS else ""
    return " \u00b7 ".join(map(_clip, words[:MAX_WORDS])) + more


def _clip(text: str, limit: int = MAX_REPLY) -> str:
    return visible(text if len(text) <= limit else f"{text[:limit]}\u2026")


def _doubts(case: Case) -> list[Text]:
    """Reasons why a right answer shows little."""
    doubts = []
    if case.detail.get("given"):
        doubts.append("the answer itself is among the kept words: to find it there shows little")
    for ruling in case.rulings:
        name = visible(ruling.judge)
        replies = next(iter(ruling.forms.values()), {})
        if ruling.correct and replies.get("none", {}).get("correct"):
            doubts.append(f"{name} gives this answer without any words, too")
        elif ruling.correct and replies.get("random", {}).get("correct"):
            doubts.append(f"{name} gives this answer from as many random words, too")
        if any(form.get("canary", {}).get("correct") for form in ruling.forms.values()):
            doubts.append(f"{name} obeys an instruction hidden among the words")
    return [Text(), *(Text(f"! {doubt}", style="yellow") for doubt in doubts)] if doubts else []
