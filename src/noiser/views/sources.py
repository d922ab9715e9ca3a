"""What each statement of an answer rests on: the sources of its prompt, their parts and their shares.

A source is a named span of the prompt; a prompt without spans has its paragraphs, or its sentences. Views of every medium read this.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from noiser.results.attribution import Attribution, Target
from noiser.results.statements import context_of, levels_of, longest_prompt, notes_of
from noiser.text.prompt import Prompt
from noiser.text.units import is_available, units
from noiser.views.labels import join_tokens, readable_tokens

LEVELS = {
    **dict.fromkeys(("token", "word", "treebank"), ("paragraph", "sentence", "word")),
    "sentence": ("paragraph", "sentence"),
    "line": ("paragraph", "line"),
    "paragraph": ("paragraph",),
}
"""The levels below a source by what was perturbed, if there is no tree. Nothing finer was measured; with `span` there are none."""
ANSWER = "answer"
"""The level of the source that is the answer itself, as far as it stands before a statement."""
SO_FAR = "the answer so far"
EXCERPT = 60
"""Characters of a part's text in its name."""


@dataclass(frozen=True, eq=False)
class SourcePart:
    """A source, or a part of one, for one statement. Its texts are as they came: views make them safe to show."""

    level: str
    """`span`, `paragraph`, `sentence`, `line`, `word`, `token`, or `answer`."""
    name: str
    """The name of a span, else the beginning of its text."""
    tokens: tuple[int, ...]
    score: float
    """In the method's units. In a tree of `unit=auto` the scores of the parts of a part add up to its own."""
    raw: float
    """What the method measured."""
    stderr: float | None
    """Standard error of `raw`; None if the method has none."""
    share: float
    """Its size as a share of the sum of the sizes of all sources, at least 0. The shares of the sources add up to 1."""
    parts: tuple["SourcePart", ...] = ()
    """What it is divided into, in the order of the prompt."""
    whole: bool = False
    """Whether it could be divided and was measured as a whole."""

    @property
    def share_stderr(self) -> float | None:
        """Standard error of the share: that of what was measured, on the scale of the share. None if the share is not made of it."""
        measured = self.stderr is not None and self.score * self.raw > 0
        return (self.stderr or 0.0) * self.share / abs(self.raw) if measured else None


@dataclass(frozen=True, eq=False)
class Statement:
    """A part of the answer that was explained: the next token, a span of the continuation, or one of its tokens."""

    text: str
    target: Target
    start: int
    """How many tokens come before it."""
    sources: tuple[SourcePart, ...]
    """In the order of the prompt."""
    rest: float
    """The sum over tokens that belong to no source."""
    dof: int | None = None
    """Degrees of freedom of the standard errors. None: many, or there are none."""

    def strongest(self, most: int | None = None) -> list[SourcePart]:
        """The sources with the largest scores of either sign, the largest first."""
        return sorted(self.sources, key=lambda part: -abs(part.score))[:most]


@dataclass(frozen=True, eq=False)
class SourceMap:
    """An answer, and what each of its statements rests on."""

    prompt: Prompt
    """The prompt of the last statement: the given prompt, and what of the answer stands before it."""
    given: int
    """How many of its tokens were given."""
    statements: tuple[Statement, ...]
    """In the order of the answer."""

    @property
    def answer(self) -> list[tuple[str, int | None]]:
        """The answer in pieces, each with the number of its statement; None for what was not explained."""
        texts = readable_tokens(self.prompt)
        pieces: list[tuple[str, int | None]] = []
        end = self.given
        for number, statement in enumerate(self.statements):
            if statement.start > end:
                pieces.append(("".join(texts[end : statement.start]), None))
            pieces.append((statement.text, number))
            end = max(end, statement.start + len(statement.target.token_ids))
        return [*pieces, ("".join(texts[end:]), None)] if end < len(texts) else pieces


def has_tree(attribution: Attribution) -> bool:
    """Whether it comes from `unit=auto`: its notes have what was measured on each level."""
    return any(levels_of(attribution, row) for row in range(len(attribution.targets)))


def has_sources(attribution: Attribution) -> bool:
    """Whether its prompt has sources to look at: a tree of `unit=auto`, or at least two named spans."""
    return has_tree(attribution) or len(attribution.prompt.spans) > 1


def read_sources(attributions: Sequence[Attribution]) -> SourceMap:
    """The statements that these attributions explain, each with its sources.

    They are of one prompt. Each target is a statement; a target of `unit=auto` has the tree that its notes hold, any other the sums of
    its scores. Raises OptionError if the prompts differ.
    """
    longest = longest_prompt(attributions)
    found = [_statement(each, row) for each in attributions for row in range(len(each.targets))]
    given = attributions[0].given
    return SourceMap(longest, len(longest) if given is None else given, tuple(sorted(found, key=lambda each: each.start)))


def source_key(part: SourcePart) -> tuple[str, int]:
    """What tells a source from the others of its prompt, in every statement: the answer so far and a last paragraph grow."""
    return (part.name, 0) if part.level in ("span", ANSWER) else (part.level, part.tokens[0])


def text_of(prompt: Prompt, tokens: Sequence[int]) -> str:
    """The text of some tokens, without the space around it. Three dots stand where others lie between them."""
    runs: list[list[int]] = []
    for token in tokens:
        if runs and runs[-1][-1] == token - 1:
            runs[-1].append(token)
        else:
            runs.append([token])
    return " \u2026 ".join(filter(None, (_run_text(prompt, run).strip() for run in runs)))


def _run_text(prompt: Prompt, run: Sequence[int]) -> str:
    if not prompt.offsets:
        return join_tokens(prompt.tokens[token] for token in run)
    offsets = [prompt.offsets[token] for token in run]
    return prompt.text[min(start for start, _ in offsets) : max(stop for _, stop in offsets)]


def _statement(attribution: Attribution, row: int) -> Statement:
    target, context = attribution.targets[row], context_of(attribution, row)
    levels = levels_of(attribution, row)
    parts = [_from_tree(level, attribution.prompt) for level in levels] if levels else _Sums(attribution, row).sources()
    total = sum(abs(part.score) for part in parts)
    inside = {token for part in parts for token in part.tokens}
    rest = sum(float(attribution.scores[row, token]) for token in range(context) if token not in inside)
    text = target.quantity if target.quantity.startswith("function") else join_tokens(target.tokens)
    dof = attribution.dof[row] if attribution.dof else notes_of(attribution, row).get("dof")
    return Statement(text, target, context, tuple(_with_shares(part, total) for part in parts), rest, dof)


def _with_shares(part: SourcePart, total: float) -> SourcePart:
    parts = tuple(_with_shares(each, total) for each in part.parts)
    return replace(part, share=abs(part.score) / total if total else 0.0, parts=parts)


def _name(prompt: Prompt, tokens: Sequence[int]) -> str:
    text = text_of(prompt, tokens) or join_tokens(prompt.tokens[token] for token in tokens)
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "\u2026"


def _from_tree(level: Mapping[str, Any], prompt: Prompt) -> SourcePart:
    parts = tuple(_from_tree(each, prompt) for each in level["parts"])
    tokens = tuple(level["tokens"])
    name = level["name"] if level["level"] == "span" else _name(prompt, tokens)
    characters = {prompt.offsets[token] if prompt.offsets else token for token in tokens}
    whole = not parts and len(characters) > 1
    return SourcePart(level["level"], name, tokens, level["score"], level["raw"], level["stderr"], 0.0, parts, whole)


class _Sums:
    """Sources of a result without a tree: sums of the scores of one target."""

    def __init__(self, attribution: Attribution, row: int) -> None:
        self.prompt, self.unit = attribution.prompt, attribution.unit
        self.context = context_of(attribution, row)
        self.given = self.context if attribution.given is None else min(attribution.given, self.context)
        self.scores = attribution.scores[row]
        self.stderr = None if attribution.stderr is None else attribution.stderr[row]
        wanted = LEVELS.get(self.unit, ())
        self.cuts = {level: units(self.prompt, level).of for level in wanted if is_available(level)}

    def sources(self) -> list[SourcePart]:
        """The spans, or the parts of the coarsest level that divides the prompt; and the answer so far if it has scores of its own."""
        taken: set[int] = set()
        found = []
        if self.prompt.spans:
            spans = units(self.prompt, "span")
            for name, members in zip(spans.texts, spans.members, strict=True):
                tokens = tuple(token for token in members if token < self.context)
                if tokens:
                    found.append(self.part("span", name, tokens, tuple(self.cuts)))
            taken = {token for part in found for token in part.tokens}
        else:
            everything = tuple(token for token in range(self.given) if not self.prompt.special[token])
            found = self.divided(everything, tuple(self.cuts)) or [self.part("paragraph", _name(self.prompt, everything), everything, ())]
        earlier = tuple(token for token in range(self.given, self.context) if token not in taken)
        if any(self.scores[token] for token in earlier):
            found.append(self.part(ANSWER, SO_FAR, earlier, tuple(self.cuts)))
        return found

    def part(self, level: str, name: str, tokens: tuple[int, ...], levels: Sequence[str]) -> SourcePart:
        """Some tokens with the sums of their scores and standard errors, divided as far as these levels go."""
        members = list(tokens)
        score = float(self.scores[members].sum())
        stderr = None if self.stderr is None else float(self.stderr[members].sum())
        parts = tuple(self.divided(tokens, levels))
        whole = not parts and level != "word" and len(tokens) > 1
        return SourcePart(level, name, tokens, score, score, stderr, 0.0, parts, whole)

    def divided(self, tokens: Sequence[int], levels: Sequence[str]) -> list[SourcePart]:
        """The parts at the coarsest level that divides these tokens; empty if none does. Tokens without a unit join the one before."""
        for place, level in enumerate(levels):
            of = self.cuts[level]
            known = [of[token] for token in tokens if of[token] is not None]
            if len(set(known)) < 2:
                continue
            groups: dict[int | None, list[int]] = defaultdict(list)
            last = known[0]
            for token in tokens:
                last = last if of[token] is None else of[token]
                groups[last].append(token)
            return [self.part(level, _name(self.prompt, each), tuple(each), levels[place + 1 :]) for each in groups.values()]
        return []
