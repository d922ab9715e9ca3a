"""The largest scale of noise that flips the prediction nowhere.

Scales are cells of a grid: `index * unit`, index from 0 to 2^levels. A search returns `low`: no token flips at `low`, some
token flips at `low + 1` (at the top end of the grid: at none that was tried).
"""

from collections.abc import Sequence

from noiser.methods.crossing import Crossing
from noiser.methods.steps import Steps
from noiser.methods.trials import Trials

SUSPECTS = 4
"""How many tokens of steepest gradient are tried first; the last two tokens, which cost next to nothing, go with them."""
FIRST_GUESS = 0.75
"""The first scale tried, as a share of where a straight line along the gradient would lose the prediction."""
ROUGH = 1.12
"""How narrow (high / low) a token's bracket gets before others are tried against it."""
NEAR = 1.5
"""A token expected to flip below NEAR times the current scale is tried there before the bracket is narrowed further."""


def exact_minimum(trials: Trials, order: Sequence[int], levels: int, unit: float) -> Steps[int]:
    """The minimum of what separate bisections of [0, 2^levels] return for each token, whatever the shape of the flips.

    Every midpoint a token would have to pass is either tried, or cannot matter: a token that does not flip at the lowest
    of several midpoints at which another token went down has itself turned up there or at one before, so it ends higher.
    """
    low, width = 0, 2**levels
    candidates = list(order)
    while width > 1:
        guess, *others = candidates
        passed: list[int] = []
        while width > 1 and (yield from trials.flipping([guess], (low + width // 2) * unit)):
            passed.append(low + width // 2)
            width //= 2
        for middle in reversed(passed if width > 1 else []):
            others = yield from trials.flipping(others, middle * unit)
        if width > 1:
            middle = low + width // 2
            below = yield from trials.flipping(others, middle * unit)
            candidates = below or [guess, *others]
            low, width = (low if below else middle), width // 2
    return low


def separate_minima(trials: Trials, levels: int, unit: float) -> Steps[list[int]]:
    """What a bisection of its own returns for each token."""
    lows = [0] * trials.seq
    for level in range(levels):
        half = 2 ** (levels - level - 1)
        yield from trials.run((token, (low + half) * unit) for token, low in enumerate(lows))
        lows = [low if trials.flips(token, (low + half) * unit) else low + half for token, low in enumerate(lows)]
    return lows


def fast_minimum(trials: Trials, order: Sequence[int], levels: int, unit: float, first: float) -> Steps[int]:
    """The same under monotone flips, in few trials: narrow the most suspicious token's crossing, then try all others there.

    `first` is the scale tried first. When no other token flips at the crossing, that last sweep is the scoring pass.
    """
    crossings = [Crossing(trials, token, levels, unit) for token in range(trials.seq)]
    suspects = list(dict.fromkeys([*order[:SUSPECTS], *range(trials.seq - 1, max(-1, trials.seq - 3), -1)]))
    start = min(max(round(first / unit), 1), crossings[0].top)
    yield from trials.run((token, start * unit) for token in suspects)
    while True:
        lead = crossings[min(suspects, key=lambda token: crossings[token].expected)]
        yield from lead.close_in(ROUGH)
        rivals = [token for token in suspects if token != lead.token and crossings[token].expected < NEAR * lead.low]
        if (yield from trials.flipping(rivals, lead.low * unit)):
            continue
        yield from lead.close_in(1.0)
        queue = sorted(order, key=lambda token: crossings[token].expected)
        below = (yield from first_flipping(trials, queue, lead.low * unit)) if lead.low else []
        if not below:
            return lead.low
        suspects = list(dict.fromkeys([*suspects, *below]))


def separate_crossings(trials: Trials, levels: int, unit: float) -> Steps[list[int]]:
    """What separate bisections return under monotone flips, all tokens interpolated side by side."""
    crossings = [Crossing(trials, token, levels, unit) for token in range(trials.seq)]
    while wanted := [(c.token, index * unit) for c in crossings if (index := c.next_index(1.0)) is not None]:
        yield from trials.run(wanted)
    return [crossing.low for crossing in crossings]


def first_flipping(trials: Trials, queue: Sequence[int], k: float) -> Steps[list[int]]:
    """Try `k` on the tokens in their order, in growing groups; those that flip in the first group in which any does.

    Where none does, `k` is likely the scale to score at, so each is tried beside its anchor.
    """
    size = SUSPECTS
    while queue:
        below = yield from trials.flipping(queue[:size], k, anchor=True)
        if below:
            return below
        queue, size = queue[size:], 2 * size
    return []
