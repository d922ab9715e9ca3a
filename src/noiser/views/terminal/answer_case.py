"""One case in a terminal, as the paper's figure 1 has it: the prompt with its kept words marked, what judges saw and said."""

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
from noiser.views.escape import visible
from noiser.views.palette import style
from noiser.views.terminal.attribution import plain, question, warnings

MARKS = ("[]", "{}", "\u00ab\u00bb", "<>")
"""What stands around a kept word: the first of these that the prompt itself has not."""
MOST_WORDS = 40
"""Of a long list of words so many are shown."""
MOST_LETTERS, FEWER_LETTERS = 200, 60
"""Of a long reply to the kept words, and to all else."""
FORMS = {"top1": "one word", "top5": "five words"}
VERDICTS = {"ok": "", "refused": "refused", "invalid_answer": "no answer"}
HASH = re.compile(r"([0-9a-f]{12})[0-9a-f]{20,}")
RIGHT, WRONG = Style(color="green", bold=True), Style(color="red")


def to_text(case: Case, width: int = 100) -> str:
    """The case without colour, as `print` shows it."""
    return plain(render_case(case), width)


def render_case(case: Case) -> RenderableType:
    """The question, the prompt with its kept words marked, each judge's replies, the verdicts, and what makes them doubtful."""
    blocks: list[RenderableType] = [question(case.attribution.target, case.attribution.model), Text()]
    blocks += [Padding(_prompt(case), (0, 2)), Text(), *_legend(case)]
    for ruling in case.rulings:
        blocks += [Text(), *_judge(case, ruling)]
    return Group(*blocks, *_doubts(case), *warnings(case.attribution))


def _prompt(case: Case) -> Text:
    """The prompt, its kept words between marks and coloured by score, and the target."""
    text = case.attribution.prompt.text
    marks = _marks(text)
    scores = {place: case.detail["scores"][place] for place in case.detail.get("kept", ())}
    largest = float(np.abs(case.detail.get("scores", ())).max(initial=0.0)) or 1.0
    shown, done = Text(), 0
    for (start, stop), score in zip(case.spans, scores.values(), strict=False):
        shown.append(visible(text[done:start]))
        shown.append(marks[0], "dim").append(visible(text[start:stop]), style(score / largest, special=False)).append(marks[1], "dim")
        done = stop
    return shown.append(visible(text[done:])).append("  \u2192", "dim").append(f" {visible(case.gold)}", "bold")


def _marks(text: str) -> str:
    return next((pair for pair in MARKS if not set(pair) & set(text)), MARKS[-1])


def _legend(case: Case) -> list[Text]:
    found = case.detail
    if not found:
        return []
    marks = _marks(case.attribution.prompt.text)
    mass = "the released code's scores of these sum to" if case.options["variant"] == "official" else "their share of all scores is"
    said = f"{marks[0]}kept{marks[1]}: the {len(case.kept)} of {len(found['words'])} words that score highest by {case.attribution.method}"
    return [Text(visible(f"{said}; {mass} {found['mass']:.2f}"), style="dim")]


def _judge(case: Case, ruling: Ruling) -> list[RenderableType]:
    """A judge's name, its verdict, and a table of what it said to what."""
    name = ruling.judge
    served = HASH.sub("\\1\u2026", ruling.first.get("model") or "")
    also = f" ({visible(served)})" if served and served not in name else ""
    heading = Text.assemble("Judge ", (visible(name), "bold"), also, ": ", _verdict(case, ruling))
    return [heading, *([_replies(ruling)] if ruling.forms else [])]


def _verdict(case: Case, ruling: Ruling) -> Text:
    if ruling.correct is None:
        return Text(f"no verdict, {visible(ruling.status)}: {visible(ruling.message)}", style="yellow")
    if ruling.correct:
        return Text(f"the kept words are enough for {visible(repr(case.gold))}", style=RIGHT)
    why = {"refused": ", for it refused to answer", "invalid_answer": ", for its reply holds no answer"}.get(ruling.status, "")
    if any(own[KEPT]["correct"] for own in ruling.forms.values()):
        why += ", though it is among five words"
    return Text(f"the kept words are not enough for {visible(repr(case.gold))}{why}", style=WRONG)


def _replies(ruling: Ruling) -> Table:
    """What it was shown down, the forms across."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    table.add_column("it saw", ratio=2, overflow="fold")
    for form in ruling.forms:
        table.add_column(f"asked for {FORMS.get(form, form)}", ratio=2, overflow="fold")
    for condition, reply in next(iter(ruling.forms.values())).items():
        table.add_row(_shown(condition, reply), *(_said(condition, own.get(condition, {})) for own in ruling.forms.values()))
    return table


def _shown(condition: str, reply: Mapping[str, Any]) -> Text:
    """What the judge saw."""
    words = list(reply["shown"])
    if condition == KEPT:
        return Text.assemble("the kept words: ", (_listed(words), "bold"))
    if condition == "all":
        return Text(f"all {len(words)} words")
    if condition == "none":
        return Text("no words")
    if condition == "canary":
        return Text(f"all words and an order: {_listed(words[-6:])}")
    return Text(f"{'shuffled' if condition == 'shuffled' else 'random words'}: {_listed(words)}")


def _said(condition: str, reply: Mapping[str, Any]) -> Text:
    """A verdict and the answers; where there are none, the reply itself."""
    if not reply:
        return Text()
    right, status = reply["correct"], VERDICTS.get(reply["status"], reply["status"])
    if condition == "canary":
        verdict = Text("obeyed" if right else status or "not obeyed", style=WRONG if right else "")
    else:
        verdict = Text("right" if right else status or "wrong", style=RIGHT if right else WRONG)
    letters = MOST_LETTERS if condition == KEPT else FEWER_LETTERS
    if not reply["said"].strip():
        return Text("an empty reply", style=WRONG)
    answers = _listed(reply["answers"]) if reply["answers"] else _clipped(reply["said"], letters)
    return Text.assemble(verdict, f": {answers}" if answers else "")


def _listed(words: Sequence[str]) -> str:
    """With dots between them, for a word may itself be a comma."""
    more = f" and {len(words) - MOST_WORDS} more" if len(words) > MOST_WORDS else ""
    return " \u00b7 ".join(map(_clipped, words[:MOST_WORDS])) + more


def _clipped(text: str, letters: int = FEWER_LETTERS) -> str:
    return visible(text if len(text) <= letters else f"{text[:letters]}\u2026")


def _doubts(case: Case) -> list[Text]:
    """What makes a right answer say little."""
    said = []
    if case.detail.get("given"):
        said.append("the answer itself is among the kept words: to find it there shows little")
    for ruling in case.rulings:
        name = visible(ruling.judge)
        first = next(iter(ruling.forms.values()), {})
        if ruling.correct and first.get("none", {}).get("correct"):
            said.append(f"{name} gives this answer without any words, too")
        elif ruling.correct and first.get("random", {}).get("correct"):
            said.append(f"{name} gives this answer from as many random words, too")
        if any(own.get("canary", {}).get("correct") for own in ruling.forms.values()):
            said.append(f"{name} obeys an instruction hidden among the words")
    return [Text(), *(Text(f"! {each}", style="yellow") for each in said)] if said else []
