"""Perturbed rows as questions to a server: what has to be known of each, asked for until all of it is, and the readouts."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, cat, stack

from noiser.errors import OptionError
from noiser.lm.perturbation import PerturbedRows, Readout
from noiser.lm.served.client import Row, VllmClient
from noiser.lm.served.completions import MOST_IDS, WHOLE, Ask, Distribution
from noiser.lm.served.proof import Rival, Unproved, find_rival

FIRST_TOP = 20
"""The most probable tokens that are asked for at first, where the argmax of a mean is to be proved."""


@dataclass(eq=False)
class Probe:
    """One perturbed row up to one of its ends, and what is known of the next token there."""

    rows: PerturbedRows
    row: int
    end: int
    """The position."""
    wanted: tuple[int, ...] = ()
    """Tokens whose probabilities are needed."""
    whole: bool = False
    top: int = 0
    """So many of the most probable tokens are needed."""
    known: Distribution = field(default_factory=Distribution)
    asked_top: int = 0
    forward_tokens: int = 0

    def next_ask(self) -> Ask | None:
        """What to ask for. None if all that is needed is known."""
        if self.whole:
            return Ask(top=WHOLE) if self.known.whole is None else None
        missing = tuple(token for token in self.wanted if self.known.logprob(token) is None)
        if self.top > self.asked_top:
            return Ask(missing[:1], self.top)
        return Ask(missing[:MOST_IDS]) if missing else None

    def learn(self, ask: Ask, answer: Distribution) -> None:
        """Take a reply."""
        self.known.add(answer)
        self.asked_top = max(self.asked_top, ask.top)
        self.forward_tokens += self.end + 1

    def embeds(self, factor: float) -> Float[Tensor, "tokens dim"]:
        """The embeddings of the row up to its end, in the server's unit."""
        clean, start = self.rows.clean.embeds, self.rows.perturbation.start
        span = self.rows.embeds(range(self.row, self.row + 1))[0]
        return cat([clean[:start], span, clean[start + len(span) :]])[: self.end + 1] * factor


@dataclass(eq=False)
class Member:
    """The probes of some perturbed rows: one for each row and end."""

    rows: PerturbedRows
    probes: list[list[Probe]]
    fault: str = ""
    rival: Rival | None = None

    def refine(self, vocab: int) -> bool:
        """Look for the best rival of the base token; say what is missing for its proof. Returns whether something is."""
        base = self.rows.base
        if base is None or self.fault or self.rival is not None:
            return False
        draws = [row[0] for row in self.probes[: self.rows.draws]]
        found = find_rival([probe.known for probe in draws], base)
        if isinstance(found, Rival):
            self.rival = found
            return False
        _ask_more(draws, found, vocab)
        return True

    def readout(self, vocab: int) -> Readout:
        """The numbers of the rows, once all probes are answered."""
        forward = sum(probe.forward_tokens for probe in {id(probe): probe for row in self.probes for probe in row}.values())
        if self.fault:
            return Readout(fault=self.fault, forward_tokens=forward)
        values = [self._value(row, vocab) for row in self.probes]
        base = _mean_prob([row[0].known for row in self.probes[: self.rows.draws]], self.rows.base)
        rival = self.rival or Rival(0.0, 0)
        anchor = values[-1] if self.rows.anchor else None
        return Readout(tuple(values[: self.rows.draws]), anchor, base, rival.prob, rival.token, forward_tokens=forward)

    def _value(self, row: Sequence[Probe], vocab: int) -> float:
        logits = stack([probe.known.logits(vocab) for probe in row])
        return float(self.rows.logit_fn.function(logits[None])[0])


def _ask_more(draws: Sequence[Probe], unproved: Unproved, vocab: int) -> None:
    for index, tokens in unproved.missing.items():
        draws[index].wanted = tokens
    if not unproved.missing:
        for probe in draws:
            probe.top = 2 * probe.top
            probe.whole = probe.whole or probe.top >= vocab


def _mean_prob(draws: Sequence[Distribution], token: int | None) -> float:
    if token is None:
        return 0.0
    known = [draw.logprob(token) for draw in draws]
    return sum(math.exp(value) for value in known if value is not None) / len(draws)


class RowReader:
    """Answers the rows of one request of the engine."""

    def __init__(self, client: VllmClient, factor: float, on_tokens: Callable[[int, int], None]) -> None:
        """`on_tokens(done, remaining)`: called after each answer, with its tokens and those of the rows that are still asked about."""
        self._client, self._factor, self._on_tokens = client, factor, on_tokens

    def readouts(self, perturbed: Sequence[PerturbedRows]) -> list[Readout]:
        """The readouts, in the order of the rows. Raises what `VllmClient.answer` raises, and OptionError for what it cannot give."""
        anchors: dict[tuple[int, int, tuple[int, ...]], Probe] = {}
        members = [_member(rows, anchors) for rows in perturbed]
        vocab = self._client.vocab
        self._answer(members)
        while sum(member.refine(vocab) for member in members):
            self._answer(members)
        return [member.readout(vocab) for member in members]

    def ask_some(self, rows: PerturbedRows, count: int) -> int:
        """Ask about the first rows of many. Returns the tokens that were sent."""
        member = _member(rows, {})
        member.probes = member.probes[:count]
        self._answer([member])
        return sum(probe.forward_tokens for row in member.probes for probe in row)

    def _answer(self, members: Sequence[Member]) -> None:
        """Ask until every probe knows what it needs."""
        while pending := list(_pending(members)):
            asks = [(probe, ask) for probe in pending if (ask := probe.next_ask())]
            rows = [Row(ask, probe.end + 1, lambda probe=probe: probe.embeds(self._factor)) for probe, ask in asks]
            remaining = sum(row.tokens for row in rows)
            with closing(self._client.answer(rows)) as answers:
                for index, answer in answers:
                    probe, ask = asks[index]
                    probe.learn(ask, answer)
                    remaining -= rows[index].tokens
                    self._on_tokens(rows[index].tokens, remaining)
            for member in members:
                if not all(probe.known.finite for row in member.probes for probe in row):
                    member.fault = "nonfinite"


def _pending(members: Sequence[Member]) -> Iterator[Probe]:
    """Each probe that has something to ask for, once."""
    probes = {id(probe): probe for member in members if not member.fault for row in member.probes for probe in row}
    yield from (probe for probe in probes.values() if probe.next_ask() is not None)


def _member(rows: PerturbedRows, anchors: dict[tuple[int, int, tuple[int, ...]], Probe]) -> Member:
    """The probes of some rows. Equal unperturbed rows share one."""
    reads = rows.logit_fn.reads
    assert rows.clean.layout == "full", "rows are sent whole"
    if rows.weights is not None or rows.model_context is not None:
        raise OptionError(
            "a gradient needs the model's weights, and this model runs behind a server: use noiser, occlusion, lime or shapley"
        )
    if reads == "logits":
        raise OptionError(
            "a target that is a function takes the model's logits, and a server gives probabilities: name tokens as the target"
        )
    probes = []
    for row in range(rows.rows):
        each = [_probe(rows, row, index, reads) for index in range(len(rows.logit_fn.ends))]
        if row >= rows.draws:
            each = [anchors.setdefault((id(rows.clean), probe.end, probe.wanted), probe) for probe in each]
        probes.append(each)
    finite = bool(rows.embeds(range(rows.rows)).isfinite().all())
    return Member(rows, probes, "" if finite else "nonfinite")


def _probe(rows: PerturbedRows, row: int, index: int, reads: tuple[tuple[int, ...], ...] | str) -> Probe:
    compared = rows.base is not None and index == 0 and row < rows.draws
    end = rows.logit_fn.ends[index]
    if isinstance(reads, str):
        return Probe(rows, row, end, whole=True)
    wanted = (*reads[index], *((rows.base,) if compared and rows.base is not None else ()))
    return Probe(rows, row, end, tuple(dict.fromkeys(wanted)), top=FIRST_TOP if compared else 0)
