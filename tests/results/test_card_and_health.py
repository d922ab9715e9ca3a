"""Contract cards and health reports, each finding on a model built to trigger it, and silence where there is nothing.

Mutants caught, each run: one of the four entries not compared; the limit of a finding passed over (four of them).
"""

import json
from dataclasses import replace

import numpy as np
import pytest

import noiser
from noiser.errors import OptionError
from noiser.evaluation.sanity_models import CUE, OTHER_CUE, conjunction, copy_circuit, shortcut
from noiser.registry import METHODS
from noiser.results.card import EXPLAINED
from tests.conftest import byte_tokenizer, tiny
from tests.toys import ToyLM

PROMPT = (7, 200, 31, 150, 99)
COPY = [0, 3, 9, 1, 2, 15]


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny")


def findings(attribution):
    return {finding.name: finding for finding in attribution.health()}


def test_a_card_says_what_is_explained_and_how(lm):
    found = noiser.attribute(lm, PROMPT, "occlusion", 17, unit="token", quantity="log_prob")
    card = found.card()
    assert (card.quantity, card.seed) == ("log-probability", "nothing is drawn at random")
    assert "(id 17)" in card.output
    assert card.features.startswith("all 5 tokens before the target")
    assert "one unit at a time is replaced" in card.perturbation
    assert "baseline=zero" in card.perturbation
    assert f"{found.cost.forward_tokens:,} tokens forward" in card.budget
    assert card.model == "tiny, revision unknown"
    lines = str(card).splitlines()
    assert [line.split()[0] for line in lines] == list(card.to_dict())
    assert json.loads(found.to_json())["card"] == card.to_dict()


def test_every_method_of_ours_says_what_it_changes():
    assert [name for name, method in METHODS.items() if method.source != "a test" and method.changes == "not stated"] == []


def test_the_first_four_entries_differ_exactly_if_something_else_is_explained(lm):
    base = noiser.attribute(lm, PROMPT, "occlusion", 17).card()

    def differing(*arguments, **options):
        other = noiser.attribute(lm, *arguments, **options).card()
        return [name for name in EXPLAINED if getattr(base, name) != getattr(other, name)]

    assert differing(PROMPT, "lime", 17) == []
    assert differing(PROMPT, "noiser", 17, seed=3) == []
    assert differing(PROMPT, "occlusion", 18) == ["output"]
    assert differing(PROMPT, "occlusion", 17, quantity="log_prob") == ["quantity"]
    assert differing(PROMPT, "occlusion", 17, foil=18) == ["output", "quantity"]
    assert differing(PROMPT, "occlusion", 17, unit="word") == ["features"]
    assert differing((7, 200, 31, 150, 98), "occlusion", 17) == ["features"]


def test_evaluate_refuses_results_that_explain_different_things_with_both_cards(lm):
    one, other = (noiser.attribute(lm, PROMPT, "occlusion", quantity=quantity) for quantity in ("prob", "log_prob"))
    with pytest.raises(OptionError, match="explain different things \\(quantity\\)") as error:
        noiser.evaluate(lm, [PROMPT], {"a": [one], "b": [other]}, ["aopc"])
    shown = str(error.value)
    assert "quantity  <- differ" in shown
    assert "a  probability" in shown
    assert "b  log-probability" in shown
    assert noiser.evaluate(lm, [PROMPT], {"a": [one], "b": [one]}, ["aopc"]).statuses == {"ok": 7}


def test_a_comparison_says_which_results_explain_something_else(lm):
    one, other = (noiser.attribute(lm, PROMPT, "occlusion", unit=unit) for unit in ("token", "word"))
    assert "differ in what they explain (features)" in str(noiser.Comparison((one, replace(other, label="words"))))
    assert "differ in what" not in str(noiser.Comparison((one, replace(one, label="again"))))


def test_a_sound_explanation_has_nothing_to_report():
    found = noiser.attribute(copy_circuit(), COPY, "integrated_gradients")
    assert found.health() == ()


def test_a_near_tie_is_reported():
    lm = noiser.LanguageModel(ToyLM([1.0, 1.0], bias=0.02), byte_tokenizer())
    assert "0.010" in findings(noiser.attribute(lm, (0, 1), "occlusion"))["margin"].said
    sure = noiser.LanguageModel(ToyLM([1.0, 1.0], bias=1.0), byte_tokenizer())
    assert "margin" not in findings(noiser.attribute(sure, (0, 1), "occlusion"))


def test_tokens_that_each_take_everything_are_saturated_and_needed_together():
    found = findings(noiser.attribute(conjunction(), [0, CUE, 1, OTHER_CUE, 2], "occlusion"))
    assert found["saturation"].said.startswith("Each of 2 tokens alone takes at least 95%")
    assert "2.0 times" in found["redundancy"].said
    assert "quantity=log_prob" in found["saturation"].remedy


def test_tokens_that_stand_in_for_each_other_are_redundant():
    found = findings(noiser.attribute(shortcut(), [0, CUE, 1, CUE, 2, 3], "occlusion"))
    assert "stand in for each other" in found["redundancy"].said
    once = findings(noiser.attribute(shortcut(), [0, CUE, 1, 2, 3, 4], "occlusion"))
    assert "redundancy" not in once


def test_a_scale_at_the_edge_and_a_flip_that_goes_back_are_reported(lm):
    floor = noiser.attribute(noiser.LanguageModel(ToyLM([1.0, 5000.0]), byte_tokenizer()), (0, 1))
    assert "smallest scale" in findings(floor)["edge"].said
    never = noiser.attribute(noiser.LanguageModel(ToyLM([1e-6, 1e-6]), byte_tokenizer()), (0, 1))
    assert "largest scale" in findings(never)["edge"].said
    back = replace(noiser.attribute(lm, PROMPT), notes={"non_monotone": 2})
    assert findings(back)["non_monotone"].said.startswith("2 tokens flip")


def test_an_uncertain_first_place_is_reported(lm):
    found = noiser.attribute(lm, PROMPT, bound="rms", samples=3)
    certain = replace(found, stderr=np.full_like(found.stderr, 1e-9))
    uncertain = replace(found, stderr=np.ones_like(found.stderr))
    assert "order" not in findings(certain)
    assert "any place from 1 to 5" in findings(uncertain)["order"].said


def test_scores_that_do_not_add_up_are_reported(lm):
    found = noiser.attribute(lm, PROMPT, "integrated_gradients", steps=2, aggregation="sum")
    whole = found.target.prob
    wrong = replace(found, notes={"completeness_gap": 0.2 * whole})
    assert "by 20%" in findings(wrong)["completeness"].said
    assert "completeness" not in findings(replace(found, notes={"completeness_gap": 0.01 * whole}))


def test_the_heat_map_shows_what_no_warning_says_and_json_has_all():
    found = noiser.attribute(conjunction(), [0, CUE, 1, OTHER_CUE, 2], "occlusion")
    assert "~ Each of 2 tokens alone" in str(found)
    assert [each["name"] for each in json.loads(found.to_json())["health"]] == ["saturation", "redundancy"]
