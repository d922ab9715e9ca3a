"""Citations of an answer: each sentence is explained as a whole, and a confidence is Student's t of what was measured.

Mutants caught, each run: a sentence that begins one token late; the sentence's own tokens among its sources; the confidence without the
error of the other source, or against all others cited ones too; the largest comparison instead of the smallest; a source with a negative
score cited.
"""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import noiser
from noiser.attribution.cite import sentences
from noiser.errors import OptionError, PromptError
from noiser.views.citations import citations, confidence
from noiser.views.cited import cited_dict, render_cited
from noiser.views.sources import SourcePart, read_sources
from tests.conftest import tiny

DOCUMENTS = [{"title": "mill", "text": "Oskar built it."}, {"title": "port", "text": "Ships come."}]
ANSWER = " Oskar did. He left."


@pytest.fixture(scope="module")
def lm(tokenizer):
    return noiser.LanguageModel(tiny("llama", max_position_embeddings=256), tokenizer)


@pytest.fixture(scope="module")
def cited(lm):
    return noiser.cite(lm, "Who?", "noiser:bound=none+samples=4+unit=span", answer=ANSWER, documents=DOCUMENTS)


def test_each_sentence_is_explained_as_a_whole(lm, cited):
    """The plain way: `attribute` with the sentence's tokens as a span, one call for each, and the documents as spans of the same text."""
    assert ["".join(target.tokens) for target in cited.targets] == [" Oskar did.", " He left."]
    text = lm.prompt("Who?", documents=DOCUMENTS).text
    places = [text.index("Document 1"), text.index("Document 2"), text.index("Who?")]
    spans = [{"name": name, "start": a, "stop": len(text[:b].rstrip())} for name, a, b in zip("ab", places, places[1:], strict=False)]
    for row, span in enumerate(((0, 11), (11, 20))):
        alone = noiser.attribute(lm, text, "noiser:bound=none+samples=4+unit=span", continuation=ANSWER, span=span, spans=spans)
        np.testing.assert_allclose(cited.scores[row, : alone.scores.shape[1]], alone.scores[0], atol=1e-5)
        assert cited.targets[row].value == pytest.approx(alone.targets[0].value, abs=1e-6)


def test_sentences(lm):
    prompt = lm.prompt("Who?")
    ids = tuple(lm.tokenizer(" One. Two!\n\n- Three", add_special_tokens=False)["input_ids"])
    pieces = [lm.tokens.text(ids[start:stop]) for start, stop in sentences(lm, prompt, ids)]
    assert "".join(pieces) == " One. Two!\n\n- Three"
    assert [piece.strip(" \n-") for piece in pieces] == ["One.", "Two!", "Three"]


def part(raw, stderr, score=None):
    return SourcePart("span", "a", (0,), raw if score is None else score, raw, stderr, 0.0)


def test_a_confidence_is_the_smallest_comparison():
    """By hand: 3 ± 0.3 against 0, against 1 ± 0.4 (5 standard errors of the difference) and against 2.5 ± 0.4 (1 of them)."""
    assert confidence(part(3.0, 0.3), [part(1.0, 0.4)], 9) == pytest.approx(stats.t.cdf(2.0 / 0.5, 9))
    assert confidence(part(3.0, 0.3), [part(1.0, 0.4), part(2.5, 0.4)], 9) == pytest.approx(stats.t.cdf(1.0, 9))
    assert confidence(part(3.0, 0.3), [], None) == pytest.approx(stats.norm.cdf(10))
    assert confidence(part(-1.0, 0.5), [part(-5.0, 0.5)], None) == pytest.approx(stats.norm.cdf(-2))
    assert confidence(part(3.0, None), [part(1.0, None)], None) is None
    assert confidence(part(3.0, 0.0), [part(1.0, 0.0)], None) == 1.0


def test_a_confidence_says_how_often_it_is_right():
    """Two sources, far above 0, whose true scores differ by any amount alike, measured with an error of 0.5 each: of the sources that
    are measured first, as many truly are as the mean confidence says."""
    draw = np.random.default_rng(3)
    true = draw.uniform(-3, 3, 4000)
    first, second = 100 + true + draw.normal(0, 0.5, 4000), 100 + draw.normal(0, 0.5, 4000)
    cited = first > second
    said = [confidence(part(a, 0.5), [part(b, 0.5)], None) for a, b in zip(first[cited], second[cited], strict=True)]
    assert np.mean(said) == pytest.approx((true[cited] > 0).mean(), abs=0.015)


def test_what_is_printed_and_written(cited):
    record = json.loads(json.dumps(cited_dict(cited)))
    assert record["answer"] == ANSWER
    assert [each["text"] for each in record["statements"]] == [" Oskar did.", " He left."]
    marks, sources = citations(read_sources([cited]))
    assert [[use["number"] for use in each["citations"]] for each in record["statements"]] == marks
    assert [each["name"] for each in record["sources"]] == [each.name for each in sources]
    assert all(0 <= use["confidence"] <= 1 for each in record["statements"] for use in each["citations"])
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(render_cited(cited))
    text = console.file.getvalue()
    assert all(f"[{each.number}] {each.name}" in text for each in sources)
    assert "confidence" in text


def test_a_source_that_speaks_against_a_sentence_is_not_cited(cited):
    found = read_sources([cited])
    against = {(place, part.name) for place, statement in enumerate(found.statements) for part in statement.sources if part.score <= 0}
    marks, sources = citations(found)
    names = {each.number: each.name for each in sources}
    assert not against & {(place, names[number]) for place, numbers in enumerate(marks) for number in numbers}


def test_a_generated_answer(lm):
    found = noiser.cite(lm, "Who?", "occlusion:unit=auto", generate=6, documents=DOCUMENTS)
    prompt = lm.prompt("Who?", documents=DOCUMENTS)
    assert sum((target.token_ids for target in found.targets), ()) == lm.generate(prompt, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "occlusion", "answer": "x"}, "give the method unit=auto or unit=span; occlusion has token"),
        ({"method": "last_attention", "answer": "x"}, "last_attention has no unit"),
        ({}, "cite wants an answer, or how many tokens to generate"),
        ({"answer": "x", "generate": 3}, "not both"),
        ({"method": "occlusion:unit=span", "answer": "x"}, "this prompt has none: give documents or spans"),
    ],
)
def test_what_cite_refuses(lm, arguments, message):
    with pytest.raises(OptionError, match=message):
        noiser.cite(lm, "Who?", **arguments)


def test_an_empty_answer_is_refused(lm):
    with pytest.raises(PromptError):
        noiser.cite(lm, "Who?", "occlusion:unit=auto", answer="")
