"""An answer with numbered citations, as text for a terminal and as JSON."""

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from noiser.results.attribution import Attribution
from noiser.views.citations import Citation, Use, citations
from noiser.views.labels import visible
from noiser.views.sources import Statement, read_sources


def cited_dict(attribution: Attribution) -> dict[str, Any]:
    """The answer, its sentences with their citations, the sources cited, and the whole Attribution (schema 1)."""
    found = read_sources([attribution])
    marks, cited = citations(found)
    return {
        "schema": 1,
        "answer": "".join(statement.text for statement in found.statements),
        "statements": [
            {"text": statement.text, "start": statement.start - found.given, "citations": _uses(place, numbers, cited)}
            for place, (statement, numbers) in enumerate(zip(found.statements, marks, strict=True))
        ],
        "sources": [{"number": each.number, "name": each.name, "excerpt": each.excerpt} for each in cited],
        "attribution": attribution.to_dict(),
    }


def render_cited(attribution: Attribution) -> RenderableType:
    """The answer with the numbers of its sources behind each sentence, and the list of these sources."""
    found = read_sources([attribution])
    marks, cited = citations(found)
    answer = Text()
    for statement, numbers in zip(found.statements, marks, strict=True):
        answer.append_text(_marked(statement, numbers))
    lines = [Text()]
    for each in cited:
        lines.append(Text.assemble((f"[{each.number}] ", "bold"), (visible(each.name), "bold"), f': "{visible(each.excerpt)}"'))
        lines += [Text(f"    sentence {use.statement + 1}: {_strength(use)}", style="dim") for use in each.uses]
    none = [] if cited else [Text("No source speaks for any sentence.", style="dim")]
    cost = attribution.cost
    lines.append(
        Text(
            f"\n{attribution.label or attribution.method} on {attribution.model} | {cost.seconds:.1f} s | "
            f"{cost.forward_tokens:,} token-forwards",
            style="dim",
        )
    )
    return Group(answer, *lines, *none)


def _marked(statement: Statement, numbers: list[int]) -> Text:
    """The sentence with its numbers behind it, before the space that ends it."""
    text = visible(statement.text)
    bare = text.rstrip()
    marks = "".join(f"[{number}]" for number in numbers) or "[-]"
    return Text.assemble(bare, (f" {marks}", "bold cyan" if numbers else "dim"), text[len(bare) :])


def _strength(use: Use) -> str:
    """`62.0 % of its support \u00b1 4.1, confidence 0.98`."""
    error = "" if use.stderr is None else f" \u00b1 {100 * use.stderr:.1f}"
    sure = "no confidence: the method has no standard errors" if use.confidence is None else f"confidence {_rounded(use.confidence):.2f}"
    return f"{100 * use.share:.1f} %{error}, {sure}"


def _rounded(confidence: float) -> float:
    """Never 1.00: nothing that is estimated from draws is certain."""
    return min(confidence, 0.99)


def _uses(place: int, numbers: list[int], cited: list[Citation]) -> list[dict[str, Any]]:
    """The citations of one sentence, the strongest first."""
    of = {each.number: use for each in cited for use in each.uses if use.statement == place}
    return [
        {"number": number, "share": of[number].share, "stderr": of[number].stderr, "confidence": of[number].confidence}
        for number in numbers
    ]
