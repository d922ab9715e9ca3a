"""Sources of an answer: sums and shares by hand, citations, the terminal, and that hostile names stay text.

Mutants caught: shares of scores with their signs; a tree's error not put on the scale of its share; tokens without a unit left out of a
part; the answer so far left out; a citation of a source that speaks against the statement; names without visible().
"""

import json
import re
import unicodedata
from dataclasses import replace

import numpy as np
import pytest

from noiser.errors import OptionError
from noiser.results.statements import combined
from noiser.views.citations import citations, excerpt
from noiser.views.sources import read_sources
from noiser.views.terminal.attribution import to_text
from noiser.views.viewer.data import view
from noiser.views.viewer.page import to_page
from noiser.views.viewer.sources import ranges
from tests.hostile import HOSTILE
from tests.shown_sources import made_long, made_prompt, made_tree

INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def token_by_token():
    """Two documents of 8 and 6 tokens, two tokens of no span, token n has the score (n + 1) / 100; standard errors of 0.01."""
    tree = made_tree()
    prompt = made_prompt(more=(" Who", "?"))
    scores = np.arange(1, 17)[None] / 100
    return replace(tree, prompt=prompt, scores=scores, stderr=np.full((1, 16), 0.01), unit="token", notes={}, method="noiser", label="")


def below(parts):
    return [each for part in parts for each in (part, *below(part.parts))]


def test_without_a_tree_sources_are_sums():
    (statement,) = read_sources([token_by_token()]).statements
    mill, port = statement.sources
    assert [mill.score, port.score] == pytest.approx([0.36, 0.69])
    assert [mill.share, port.share] == pytest.approx([0.36 / 1.05, 0.69 / 1.05])
    assert mill.share_stderr == pytest.approx(0.08 / 1.05)
    assert statement.rest == pytest.approx(0.15 + 0.16)
    assert [each.score for each in mill.parts] == pytest.approx([0.10, 0.26])
    assert [each.name for each in mill.parts[1].parts] == ["Oskar", "built", "it", "."]
    assert not any(each.whole for each in below(statement.sources))


def test_a_tree_keeps_its_scores_and_shares_are_of_sizes():
    (statement,) = read_sources([made_tree()]).statements
    mill, port = statement.sources
    assert [mill.share, port.share] == pytest.approx([0.75, 0.25])
    assert mill.share_stderr == pytest.approx(0.03 / 0.8)
    oskar, _, it, _ = mill.parts[1].parts
    assert oskar.share_stderr == pytest.approx(0.08 * (0.3 / 0.4) / 0.8), "the error of what was measured, shrunk as its score was"
    assert it.share_stderr is None
    assert [each.name for each in below(statement.sources) if each.whole] == ["It is old.", "port"]


def test_a_source_perturbed_as_a_whole_has_no_parts():
    (statement,) = read_sources([replace(token_by_token(), unit="span")]).statements
    assert all(part.whole and not part.parts for part in statement.sources)


def test_parts_add_up_and_shares_add_to_one():
    for statement in read_sources(made_long(1200, 6)).statements:
        assert sum(part.share for part in statement.sources) == pytest.approx(1)
        for part in below(statement.sources):
            if part.parts:
                assert sum(each.score for each in part.parts) == pytest.approx(part.score, abs=1e-9)
                assert sorted(token for each in part.parts for token in each.tokens) == list(part.tokens)


def test_the_answer_so_far_is_a_source():
    found = read_sources(made_long(1200, 6))
    assert [len(statement.sources) for statement in found.statements] == [6, 7, 7]
    last = found.statements[2].sources[-1]
    assert (last.level, last.tokens) == ("answer", tuple(range(1200, 1213)))
    assert [number for _, number in found.answer] == [0, 1, 2]


def test_statements_become_one_attribution():
    attributions = made_long(1200, 6)
    whole = combined(attributions[::-1])
    assert [target.context for target in whole.targets] == [1200, 1208, 1213]
    assert whole.scores[1, :1208] == pytest.approx(attributions[1].scores[0])
    assert whole.cost.forward_tokens == 3 * 12_345
    ours, theirs = read_sources([whole]).statements, read_sources(attributions).statements
    assert [[part.score for part in each.sources] for each in ours] == [[part.score for part in each.sources] for each in theirs]
    with pytest.raises(OptionError, match="one method"):
        combined([attributions[0], replace(attributions[1], method="lime", label="")])
    with pytest.raises(OptionError, match="one prompt"):
        read_sources([attributions[0], made_tree()])


def test_trees_of_statements_stay_apart():
    whole = combined([made_tree(), made_tree(answer=" Brandt")])
    assert len(whole.notes["rows"]) == len(read_sources([whole]).statements) == 2
    assert [span.name for span in whole.prompt.spans] == ["mill", "port"]


def test_citations_are_of_sources_that_support():
    found = read_sources([made_tree()])
    marks, (mill,) = citations(found)
    assert marks == [[1]]
    assert (mill.name, mill.excerpt) == ("mill", "Oskar built it.")
    (use,) = mill.uses
    assert (use.statement, use.share, use.stderr) == (0, pytest.approx(0.75), pytest.approx(0.0375))
    assert use.confidence == pytest.approx(1.0)
    assert excerpt(found.statements[0].sources[0], found.prompt, 10) == "Oskar bu\u2026"
    assert [each.number for each in citations(read_sources(made_long(1200, 6)))[1]] == [1, 2, 3]


def test_what_the_page_holds():
    data = view(made_tree())["sources"]
    root = data["rows"][0]["statements"][0]["parts"][0]
    assert root[:3] == [0, [0, 8], 0.6]
    assert root[6][1][6][0] == [data["levels"].index("word"), [4, 5], 0.3, 0.4, 0.08]
    assert ranges([0, 1, 4, 5, 6, 9]) == [0, 2, 4, 7, 9, 10]
    assert "sources" not in view(replace(token_by_token(), prompt=replace(made_prompt(more=(" Who", "?")), spans=())))


def test_a_long_page_leaves_out_single_tokens_and_stays_small():
    page = to_page(combined(made_long(6000, 30)))
    assert len(page) < 1_500_000
    assert '"tokens":false' in page


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(text):
    result = made_tree((text, "port"), text)
    data = view(result)["sources"]
    json.dumps(data, allow_nan=False)
    drawn = "".join([*(source["name"] for source in data["list"]), *(each["name"] for each in data["rows"][0]["citations"])])
    assert not any(unicodedata.category(character) in INVISIBLE for character in drawn + to_text(result).replace("\n", ""))


def test_the_terminal_opens_the_best_source():
    shown = to_text(made_tree())
    names = [re.split(r"\d  +", line)[-1].strip() for line in shown.splitlines() if " %" in line]
    assert names[:3] == ["mill", "Oskar built it.", "Oskar"]
    assert "75.0 % \u00b1 3.7" in shown
    assert "-25.0 % \u00b1 1.2" in shown
    assert "port \u25e6" in shown
    assert "not refined: measured as a whole" in shown


def test_the_terminal_counts_what_it_leaves_out():
    shown = to_text(made_long(2000, 20, 1)[0])
    assert "10 more" in shown
    assert len(shown.splitlines()) < 40
    assert "stones stones" not in shown.split("Report")[0], "2,000 coloured tokens"


def test_the_terminal_shows_each_statement_with_its_best_sources():
    shown = to_text(combined(made_long(1200, 6)))
    assert [line for line in shown.splitlines() if line[:2] in ("1.", "2.", "3.")] == [
        "1. The first mason came from the north .", "2. He kept a book .", "3. Then he left .",
    ]  # fmt: skip
    assert "4 more sources" in shown
