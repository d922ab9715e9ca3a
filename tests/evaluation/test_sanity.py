"""The checks themselves: they pass what they should and catch what they should.

Mutants caught, each run: the blind model seeing its position after all, or weights shuffled in the model itself instead of a copy
(sanity/variants.py); the circuits' query or cue wired to nothing (sanity/circuits.py); the permutation null left out; a cue
counted as found where it beats any other token; two runs compared by value instead of by byte (sanity/checks.py).
"""

import json

import numpy as np
import pytest
import torch

import noiser
from noiser.errors import OptionError
from noiser.evaluation.sanity import CHECKS, TRIES, Subject, check
from noiser.evaluation.sanity_models import CUE, NO, PAYLOADS, QUERY, YES, copy_circuit, ignoring, linear_model, shortcut, shuffled
from noiser.methods.base import MethodOutput
from noiser.registry import METHODS, Method, MethodSpec, method
from noiser.rng import generator
from tests.conftest import byte_tokenizer, tiny

PROMPTS = [(7, 200, 31, 150, 31, 99, 12, 250), (5, 9, 120, 44, 201), (120, 60, 30, 15, 7, 3, 8, 40), (90, 91, 17, 93, 94, 21)]
SMALL = {"noiser": {"samples": 3, "steps": 6}, "integrated_gradients": {"steps": 8}}


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer())


@pytest.fixture(scope="module")
def checkup(lm):
    chosen = [
        "noiser",
        "occlusion",
        "integrated_gradients",
        "input_x_gradient",
        "last_attention",
        "random",
        "uniform",
        "constant",
        "recency",
    ]
    return check(lm, {name: SMALL.get(name, {}) for name in chosen}, prompts=PROMPTS)


def outcomes(checkup, name):
    return {each.check: each.outcome for each in checkup.verdicts if each.method == name}


@pytest.mark.parametrize("name", ["noiser", "occlusion", "integrated_gradients", "input_x_gradient"])
def test_methods_that_are_sound_pass_everything(checkup, name):
    assert outcomes(checkup, name) == dict.fromkeys(CHECKS, "pass")


@pytest.mark.parametrize("name", ["random", "uniform", "constant", "recency"])
def test_controls_fail_what_needs_the_model(checkup, name):
    found = outcomes(checkup, name)
    for wanted in ("null_token", "copied_token", "shortcut_word", "shuffled_weights", "other_target"):
        assert found[wanted] == "fail", wanted
    assert found["same_seed"] == found["batch_invariance"] == "pass"
    if name != "recency":
        assert found["linear_truth"] == "fail"


def test_attention_is_blind_to_the_target_and_finds_what_attention_carries(checkup):
    found = outcomes(checkup, "last_attention")
    assert found["copied_token"] == "pass"
    assert found["shortcut_word"] == "fail"
    assert found["other_target"] == "fail"
    assert found["null_token"] == found["linear_truth"] == "not applicable"
    said = next(each.said for each in checkup.verdicts if each.method == "last_attention" and each.check == "null_token")
    assert "attention weights" in said


def test_every_check_of_every_method_has_a_verdict(checkup):
    assert len(checkup.verdicts) == len(CHECKS) * 9 == sum(checkup.outcomes.values())
    plain = json.loads(checkup.to_json())
    assert plain["schema"] == 1
    assert {each["check"] for each in plain["verdicts"]} == set(CHECKS)
    shown = str(checkup)
    assert "\u2717 other_target, last_attention: the same scores for either target" in shown
    assert all(name in shown for name in CHECKS)


def broken(name, how):
    """A method that spoils occlusion's scores."""

    @method(name, family="perturbation", source="a test", cost="as occlusion")
    def spoiled(lm, clean, goal):
        scored = yield from METHODS["occlusion"].function(lm, clean, goal)
        return MethodOutput(how(scored.scores, clean))

    return spoiled


SPOILED = {
    "shifted": (lambda scores, clean: np.roll(scores, 1), {"null_token", "copied_token", "shortcut_word", "linear_truth"}),
    "inverted": (lambda scores, clean: -scores, {"copied_token", "shortcut_word"}),
    "drawn": (lambda scores, clean: scores + 1e-9 * np.random.default_rng().normal(size=len(scores)), {"same_seed"}),
    "by the ids": (
        lambda scores, clean: np.cos(np.array(clean.prompt.input_ids, dtype=float)),
        {"shuffled_weights", "other_target", "null_token"},
    ),
    "nearly positions": (lambda scores, clean: np.arange(len(scores)) + 1e-6 * scores, {"shuffled_weights"}),
    "raising": (lambda scores, clean: 1 / 0, set(CHECKS)),
    "without numbers": (lambda scores, clean: scores * np.nan, {"null_token", "copied_token", "shortcut_word", "linear_truth"}),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_method_that_is_wrong_is_caught(lm, name):
    how, caught = SPOILED[name]
    broken(name, how)
    try:
        found = outcomes(check(lm, [name], prompts=PROMPTS), name)
    finally:
        METHODS.pop(name)
    assert caught <= {each for each, outcome in found.items() if outcome == "fail"}, found


def test_the_blind_model_does_not_see_its_position_and_nothing_else_is_changed(lm):
    ids = torch.tensor([[7, 200, 31, 150, 99]])
    blind = ignoring(lm, 2).model
    with torch.no_grad():
        expected = lm.model(input_ids=ids[:, [0, 1, 3, 4]]).logits
        torch.testing.assert_close(blind(input_ids=ids).logits, expected)
        torch.testing.assert_close(blind(inputs_embeds=blind.get_input_embeddings()(ids)).logits, expected)


def test_shuffling_works_on_a_copy(lm):
    before = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    other = shuffled(lm, 0)
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, before[name])
    for name, parameter in other.model.named_parameters():
        assert torch.equal(parameter.flatten().sort().values, before[name].flatten().sort().values)
        assert parameter.numel() < 8 or before[name].std() == 0 or not torch.equal(parameter, before[name])


def test_the_circuits_do_what_they_say():
    copies, cues = copy_circuit(), shortcut()
    for trial in range(TRIES):
        drawn = generator("here", trial)
        ids = drawn.integers(0, 8, 8)
        place, payload = int(drawn.integers(1, 7)), int(drawn.choice(list(PAYLOADS)))
        without = ids.tolist()
        ids[place] = payload
        (clean,) = copies.clean([copies.prompt([*ids.tolist(), QUERY])])
        assert clean.prediction == payload
        ids[place] = CUE
        assert cues.clean([cues.prompt(ids.tolist())])[0].prediction == YES
        assert cues.clean([cues.prompt(without)])[0].prediction == NO
    (clean,) = linear_model([1.0, -2.0, 0.5]).clean([copies.prompt([0, 0, 0])])
    assert float(clean.logits[0] - clean.logits[1]) == pytest.approx(-0.5, abs=1e-6)


def test_what_the_model_does_not_allow_is_not_the_methods_fault(lm, monkeypatch):
    """At the context limit there is no room for one token more; and a copy of the model may not fit."""
    monkeypatch.setattr("noiser.evaluation.sanity.shuffled", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
    found = outcomes(check(lm, ["occlusion"], prompts=[(7,) * 64, (5, 9, 120)]), "occlusion")
    assert found["null_token"] == found["shuffled_weights"] == "not applicable"
    assert found["batch_invariance"] == "pass"


def test_no_figure_is_no_number():
    """JSON has no NaN: scores that are none have no figure."""
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    broken("[/x] nan", lambda scores, clean: scores * np.nan)
    try:
        found = check(lm, ["[/x] nan"], prompts=PROMPTS[:2])
    finally:
        METHODS.pop("[/x] nan")
    assert {each.outcome for each in found.verdicts} == {"fail"}
    json.loads(found.to_json(), parse_constant=pytest.fail)
    assert "[/x] nan" in str(found)


def test_prompts_that_are_too_few_or_short_are_refused(lm):
    for prompts in ([PROMPTS[0]], [PROMPTS[0], (5, 9)]):
        with pytest.raises(OptionError, match="at least two prompts of at least three tokens"):
            check(lm, ["occlusion"], prompts=prompts)
    with pytest.raises(OptionError):
        check(lm, ["nonsense"])


@pytest.mark.parametrize(("hits", "passes"), [(5, False), (6, True), (8, True)])
def test_a_planted_cue_must_be_found_in_six_of_eight_prompts(lm, hits, passes):
    """Mutant caught: the threshold at one half."""
    calls = []

    def partly_right(lm, clean, objective) -> MethodOutput:
        calls.append(clean)
        is_cue = np.array([token == CUE for token in clean.prompt.input_ids])
        return MethodOutput(np.where(is_cue, 1.0, 0.0) if len(calls) <= hits else np.where(is_cue, -1.0, 0.0))

    entry = Method(name="partly_right", function=partly_right, source="a test", family="test")
    subject = Subject(lm, [], MethodSpec("partly_right", entry, {}), 0)
    share, found, _ = CHECKS["shortcut_word"][1](subject)
    assert len(calls) == TRIES == 8
    assert (share, found) == (hits / TRIES, passes)
