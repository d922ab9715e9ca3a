"""Coarse to fine: sources first, then paragraphs, sentences, words and tokens, only inside what matters, until a budget is spent.

A level is the method itself with `unit=span` on the parts that it refines: what is not refined there stays as it is in the prompt. The
prompt runs once unperturbed. A method whose rows depend on what it measures, such as a search, is stopped before it passes the budget.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import noiser.methods
from noiser.attribution.budget import SHARE, parse_budget, within
from noiser.attribution.estimate import RowCounts, count_rows, is_exact, seconds_per_token
from noiser.attribution.explain import advice_on, as_attribution, explain_steps, run_method
from noiser.errors import OptionError
from noiser.lm.model import LanguageModel
from noiser.lm.requests import CleanRunCache, cached
from noiser.lm.scheduler import run_one
from noiser.lm.target import Question, ResolvedTarget, resolve_target
from noiser.lm.tokenizer import Source
from noiser.registry import MethodSpec
from noiser.results.attribution import Attribution, Cost
from noiser.text.prompt import Prompt
from noiser.text.spans import NamedSpan, free_name, merged
from noiser.text.units import is_available, units

LEVELS = ("span", "paragraph", "sentence", "word", "token")
"""From coarse to fine. A level that would leave a part whole is left out for it."""
ENOUGH = 0.8
"""The parts that are refined at a time hold this share of the sizes of all scores that could be refined."""
AT_ONCE = 0.5
"""The share of what is left of the budget that one round may take, if it refines more than one part."""
USUAL = 2.0
"""What a search usually takes, as a multiple of the least that it can take. What is planned counts as this much."""
THOROUGH = 3.0
"""The budget if none is given, as a multiple of what the coarsest level takes: enough to open the best sources."""
KEPT_NOTES = ("k", "k_status", "samples", "warnings")
"""What a round keeps of the method's notes."""
KNOWN = "noiser:bound=rms+scale=4+samples=3+unit=auto"
EXCERPT = 40


@dataclass(eq=False)
class Part:
    """Some tokens of the prompt that were perturbed together."""

    level: str
    name: str
    tokens: tuple[int, ...]
    score: float = 0.0
    """Its share of the score of the part that it lies in. The scores of all parts of a part add up to it."""
    raw: float = 0.0
    """What the method measured."""
    stderr: float | None = None
    """Standard error of `raw`."""
    parts: tuple["Part", ...] = field(default=())
    """What it was refined into; empty if it was not."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values, with all parts."""
        own = {"level": self.level, "name": self.name, "tokens": list(self.tokens), "score": self.score, "raw": self.raw}
        return {**own, "stderr": self.stderr, "refined": bool(self.parts), "parts": [part.to_dict() for part in self.parts]}

    def leaves(self) -> list["Part"]:
        """The parts that were not refined."""
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]


def refine(lm: LanguageModel, source: Source, spec: MethodSpec, question: Question, budget: int | str | None) -> Attribution:
    """The scores of a method with `unit=auto`: as fine as `budget` pays for, in token-forwards (50000) or time (`30s`); None: THOROUGH
    times what the coarsest level takes.

    First all parts of the coarsest level are scored. Then those with the largest scores are refined, again and again. The parts of a
    part share its score in proportion to what the method measures for each with the sign of the whole; those with the other sign get
    0. `notes["levels"]` has everything that was measured. If the budget pays for the method on every token, that runs instead.

    The budget counts the clean run and all rows, and is never passed; a time is turned into tokens by the rate of some rows at this
    moment. A method that decides by what it measures, as a search does, is planned at USUAL times the least that it takes; a round that
    would pass the budget ends there, its parts stay whole, and what it took counts.

    Raises OptionError if the budget does not pay for the coarsest level, and for several targets.
    """
    work = _Refinement(lm, lm.prompt(source), spec, question, budget)
    if budget is None:
        work.budget = work.limit = int(THOROUGH * (work.cost.forward_tokens + work.planned(work.coarsest())))
    roots = [] if work.exact else work.first_level()  # a plain run that does not end leaves a result
    if (found := work.plain()) is not None:
        return found
    roots = roots or work.first_level()
    while (chosen := work.choose([leaf for root in roots for leaf in root.leaves()])) is not None:
        work.refine(chosen)
    return work.result(roots)


def level_costs(lm: LanguageModel, source: Source, spec: MethodSpec, question: Question) -> list[dict[str, Any]]:
    """What the method would take on the whole prompt at each level: parts, rows, token-forwards, seconds, and whether that is exact. If it
    is not, the method decides by what it measures, and these are nearly always the least. Nothing but the clean run and a few rows, to
    measure the rate, takes place. A level that has the parts of the one before is left out."""
    work = _Refinement(lm, lm.prompt(source), spec, question, None)
    rate, found = 0.0, []
    for place, level in enumerate(LEVELS):
        parts = work.cut(work.everything(), place) if level in work.cuts else []
        if not parts or parts[0].level != level or (found and len(parts) == found[-1]["parts"]):
            continue
        counts = work.count(parts)
        rate = rate or seconds_per_token(lm, counts.first)
        tokens = work.cost.forward_tokens + counts.forward_tokens
        cost = {"rows": counts.rows, "forward_tokens": tokens, "seconds": rate * tokens, "exact": work.exact}
        found.append({"level": level, "parts": len(parts), **cost})
    return found


class _Refinement:
    """One prompt, its clean run, and what is left of the budget."""

    def __init__(self, lm: LanguageModel, prompt: Prompt, spec: MethodSpec, question: Question, budget: int | str | None) -> None:
        self.lm, self.given, self.spec, self.question, self.budget = lm, prompt, spec, question, budget
        self._cleans: CleanRunCache = {}
        requires = spec.method.requires
        resolved, self.cost = run_one(lm, cached(resolve_target(lm.tokens, prompt, question, requires), self._cleans, requires))
        if len(resolved) != 1:
            raise OptionError("unit=auto explains one target at a time: give a target, or a span of the continuation")
        self.resolved: ResolvedTarget = resolved[0]
        self.prompt = self.resolved[0].prompt
        self.cuts = {level: units(self.prompt, level) for level in LEVELS if self._can_cut(level)}
        self._refused: set[Part] = set()
        self.rounds: list[dict[str, Any]] = []
        self.dof: int | None = None
        coarsest = self.coarsest()
        self.exact = is_exact(lm, self.spec_of("span"), [self._on(coarsest)], self.count(coarsest))
        amount, is_time = (math.inf, False) if budget is None else parse_budget(budget)
        self.limit = self._tokens_in(amount) if is_time else amount

    def _can_cut(self, level: str) -> bool:
        return is_available(level) and (level != "span" or bool(self.prompt.spans))

    def spec_of(self, unit: str) -> MethodSpec:
        """The method with this unit."""
        return replace(noiser.methods.parse(self.spec.name, {**self.spec.options, "unit": unit}), label=self.spec.label)

    def _tokens_in(self, seconds: float) -> float:
        counts = self.count(None, most=0)
        rate = seconds_per_token(self.lm, counts.first)
        return self.cost.forward_tokens + max(0.0, SHARE * seconds - self.cost.seconds) / rate if rate > 0 else math.inf

    @property
    def left(self) -> float:
        """The token-forwards that are left of the budget."""
        return self.limit - self.cost.forward_tokens

    def planned(self, parts: Sequence[Part] | None) -> float:
        """The token-forwards to plan for these parts."""
        return self.count(parts, self.left).forward_tokens * (1.0 if self.exact else USUAL)

    def plain(self) -> Attribution | None:
        """The method on every token, if the budget pays for that; else None."""
        if self.planned(None) > self.left:
            return None
        steps = explain_steps(self.lm, self.given, self.spec_of("token"), self.question, self._cleans)
        explained, cost = run_one(self.lm, within(steps, self.left))
        self.cost += cost
        if explained is None:
            self._note(cost, len(self.prompt), None)
            return None
        return as_attribution(self.lm, explained, self.cost, self.spec_of("token"))

    def count(self, parts: Sequence[Part] | None, most: float = math.inf) -> RowCounts:
        """The rows that the method takes on these parts; None: on every token. Counting ends beyond `most` token-forwards."""
        if parts is None:
            return count_rows(self.lm, self.spec_of("token"), [self.resolved], most=most)
        return count_rows(self.lm, self.spec_of("span"), [self._on(parts)], most=most)

    def _on(self, parts: Sequence[Part]) -> ResolvedTarget:
        """The same target, with these parts as the only spans of the prompt. All other tokens count as special: they belong to no span,
        also where a part stands around them."""
        clean, objective = self.resolved
        offsets = self.prompt.offsets
        spans = [
            NamedSpan(str(number), min(offsets[t][0] for t in part.tokens), max(offsets[t][1] for t in part.tokens))
            for number, part in enumerate(parts)
        ]
        inside = {token for part in parts for token in part.tokens}
        special = tuple(token not in inside for token in range(len(self.prompt)))
        named = replace(clean, prompt=replace(self.prompt, spans=tuple(spans), special=special))
        branches = tuple(replace(branch, clean=named) if branch.clean is clean else branch for branch in objective.branches)
        return named, replace(objective, branches=branches)

    def measure(self, parts: Sequence[Part]) -> bool:
        """Run the method on these parts, and enter what it measures. False, and nothing is entered, if the budget ends before it."""
        resolved = self._on(parts)
        output, cost = run_one(self.lm, within(run_method(self.lm, self.spec_of("span"), resolved), self.left))
        self.cost += cost
        self._note(cost, len(parts), output.notes if output else None)
        if output is None:
            return False
        self.dof = output.dof
        for part, members in zip(parts, units(resolved[0].prompt, "span").members, strict=True):
            part.raw = float(output.scores[list(members)].sum())
            part.stderr = None if output.stderr is None else float(output.stderr[list(members)].sum())
        return True

    def _note(self, cost: Cost, parts: int, notes: Mapping[str, Any] | None) -> None:
        """Write down a round: how many parts, what it took, whether it ended, and what the method says about it."""
        kept = {name: notes[name] for name in KEPT_NOTES if name in notes} if notes else {}
        self.rounds.append({"parts": parts, "forward_tokens": cost.forward_tokens, "ended": notes is not None, **kept})

    def everything(self) -> Part:
        """The whole prompt but for special tokens."""
        return Part("prompt", "prompt", tuple(t for t in range(len(self.prompt)) if not self.prompt.special[t]))

    def coarsest(self) -> list[Part]:
        """The parts of the coarsest level; the whole prompt if nothing divides it."""
        return self.cut(self.everything(), 0) or [self.everything()]

    def first_level(self) -> list[Part]:
        """The coarsest parts, measured."""
        parts = self.coarsest()
        needed = self.cost.forward_tokens + self.count(parts).forward_tokens
        whole = f"{self.spec.label}: the {len(parts)} parts of the coarsest level ({parts[0].level})"
        if needed > self.limit:
            least = "" if self.exact else "at least "
            raise OptionError(f"{whole} take {least}{needed:,} token-forwards here, more than the budget of {self.budget}")
        if not self.measure(parts):
            raise OptionError(
                f"{whole} took {self.cost.forward_tokens:,} token-forwards and would go on beyond the budget of {self.budget}, as the "
                f"method decides by what it measures. Give a larger budget, or a method whose rows are known beforehand, such as {KNOWN}"
            )
        for part in parts:
            part.score = part.raw
        return parts

    def cut(self, whole: Part, first: int | None = None) -> list[Part]:
        """The parts of a part at the coarsest level that divides it; empty if none does. Tokens of one character stay together."""
        start = LEVELS.index(whole.level) + 1 if first is None else first
        for level in LEVELS[start:]:
            if level not in self.cuts:
                continue
            groups: dict[Any, list[int]] = defaultdict(list)
            last: Any = None
            for token in whole.tokens:
                unit = self.prompt.offsets[token] if level == "token" else self.cuts[level].of[token]
                last = unit if unit is not None or level == "span" else last
                if last is not None:
                    groups[last].append(token)
            if len(groups) > 1:
                return [self._part(level, tokens) for tokens in groups.values()]
        return []

    def _part(self, level: str, tokens: list[int]) -> Part:
        unit = self.cuts[level].of[tokens[0]]
        if level == "span" and unit is not None:
            return Part(level, self.cuts[level].texts[unit], tuple(tokens))
        text = self.prompt.text[self.prompt.offsets[tokens[0]][0] : self.prompt.offsets[tokens[-1]][1]].strip()
        return Part(level, text if len(text) <= EXCERPT else f"{text[: EXCERPT - 1]}\u2026", tuple(tokens))

    def choose(self, leaves: Sequence[Part]) -> list[tuple[Part, list[Part]]] | None:
        """The parts to refine now, each with its own parts, as far as the budget goes. None if nothing more can be refined."""
        candidates = sorted((leaf for leaf in leaves if leaf not in self._refused), key=lambda leaf: -abs(leaf.score))
        divided = [(leaf, parts) for leaf in candidates if leaf.score and (parts := self.cut(leaf))]
        while divided:
            sizes = np.cumsum([abs(leaf.score) for leaf, _ in divided])
            number = int(np.searchsorted(sizes, ENOUGH * sizes[-1])) + 1
            while number:
                needed = self.planned([part for _, parts in divided[:number] for part in parts])
                if needed <= (self.left if number == 1 else AT_ONCE * self.left):
                    return divided[:number]
                number //= 2
            self._refused.add(divided.pop(0)[0])
        return None

    def refine(self, chosen: Sequence[tuple[Part, list[Part]]]) -> None:
        """Measure the parts of these parts, and let them share the scores. If the budget ends before that, they stay whole."""
        if not self.measure([part for _, parts in chosen for part in parts]):
            self._refused |= {whole for whole, _ in chosen}
            return
        for whole, parts in chosen:
            sizes = [max(0.0, math.copysign(1.0, whole.score) * part.raw) for part in parts]
            if not sum(sizes):
                sizes = [float(len(part.tokens)) for part in parts]
            for part, size in zip(parts, sizes, strict=True):
                part.score = whole.score * size / sum(sizes)
            whole.parts = tuple(parts)

    def result(self, roots: Sequence[Part]) -> Attribution:
        """The finest scores, each spread evenly over its tokens. The parts that were not refined are spans of the prompt."""
        clean, objective = self.resolved
        leaves = sorted((leaf for root in roots for leaf in root.leaves()), key=lambda leaf: leaf.tokens)
        scores = np.zeros((1, len(self.prompt)))
        for leaf in leaves:
            scores[0, list(leaf.tokens)] = leaf.score / len(leaf.tokens)
        first, second = clean.probs.topk(2).values.tolist()
        return Attribution(
            scores=scores,
            prompt=replace(self.prompt, spans=merged(self.prompt.spans, self._spans(leaves))),
            targets=(objective.target,),
            method=self.spec.name,
            options={name: value for name, value in self.spec.options.items() if name != "seed"},
            model=self.lm.name,
            revision=self.lm.revision,
            seed=self.spec.options.get("seed"),
            cost=Cost(self.cost.seconds, self.cost.forward_tokens, self.cost.backward_tokens, self.cost.peak_bytes),
            notes={
                "budget": str(self.budget),
                "levels": [root.to_dict() for root in roots],
                "unrefined": sum(bool(self.cut(leaf)) for leaf in leaves),
                "rounds": self.rounds,
                "dof": self.dof,
                "warnings": [*advice_on(self.lm, self.given, self.question, self.resolved), *self._round_warnings()],
                "margin": first - second,
            },
            unit="span",
            given=len(self.given),
            label=self.spec.label,
        )

    def _round_warnings(self) -> list[str]:
        """What the method says about the coarsest level, and how much was measured for nothing."""
        first = next((found["warnings"] for found in self.rounds if found.get("warnings")), [])
        lost = sum(found["forward_tokens"] for found in self.rounds if not found["ended"])
        ended = f"The budget ended inside a round, whose parts stay as they were: {lost:,} token-forwards were spent on it."
        return [*first, *([ended] if lost else [])]

    def _spans(self, leaves: Sequence[Part]) -> list[NamedSpan]:
        """The leaves as spans. A name that comes again gets a number, as every span has a name of its own."""
        taken = {span.name for span in self.prompt.spans}
        spans = []
        for leaf in leaves:
            offsets = [self.prompt.offsets[token] for token in leaf.tokens]
            name = leaf.name if leaf.level == "span" else free_name(leaf.name or "space", taken)
            taken.add(name)
            spans.append(NamedSpan(name, min(start for start, _ in offsets), max(stop for _, stop in offsets)))
        return spans
