"""Removal curves: against plain forward passes, against the deletion and insertion metrics, and what they cost."""

import numpy as np
import pytest
import torch

import noiser
from noiser.attribution.curves import POINTS
from noiser.errors import OptionError, Stopped
from tests.conftest import byte_tokenizer, tiny


@pytest.fixture(scope="module")
def small():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny", revision="1")


def plain(lm, ids, kept, target):
    """The target's probability with all other embeddings zero: one plain forward pass."""
    with torch.no_grad():
        embeds = lm.model.get_input_embeddings()(torch.tensor([ids]))
        mask = torch.zeros(len(ids))
        mask[list(kept)] = 1
        return float(lm.model(inputs_embeds=embeds * mask[None, :, None]).logits[0, -1].softmax(-1)[target])


def test_curves_equal_plain_forward_passes(small):
    """Mutants: scores sorted upwards; kept and removed exchanged; an edit that begins one token late."""
    a = noiser.with_curves(small, noiser.attribute(small, "grass is green", "occlusion"))
    (curve,) = a.curves
    assert list(curve.order) == np.argsort(-a.scores[0], kind="stable").tolist()
    assert curve.counts == tuple(range(len(a.tokens) + 1))
    ids, target = a.prompt.input_ids, a.target.token_ids[0]
    for count, removed, kept in zip(curve.counts, curve.removed, curve.kept, strict=True):
        top, rest = curve.order[:count], curve.order[count:]
        assert removed == pytest.approx(plain(small, ids, rest, target), abs=1e-6)
        assert kept == pytest.approx(plain(small, ids, top, target), abs=1e-6)
    assert np.ptp(curve.removed) > 1e-4, "the model does not care: the test would show nothing"


def test_curves_equal_the_deletion_and_insertion_metrics(small):
    text = "snow is white"
    a = noiser.with_curves(small, noiser.attribute(small, text, "occlusion"))
    found = noiser.evaluate(small, [text], {"occlusion": [a]}, ["deletion", "insertion"], controls=[])
    steps = {record.metric: record.steps[0]["values"] for record in found.records}
    np.testing.assert_allclose(a.curves[0].removed, steps["deletion"], atol=1e-6)
    np.testing.assert_allclose(a.curves[0].kept, steps["insertion"], atol=1e-6)


@pytest.mark.parametrize(
    "asked",
    [
        {"target": " is it"},
        {"target": "a", "foil": "b"},
        {"target": "ab", "foil": "c", "quantity": "log_odds"},
        {"generate": 3},
        {"continuation": "abc", "quantity": "log_prob"},
        {"continuation": "abcd", "span": (1, 3)},
    ],
    ids=str,
)
def test_every_kind_of_question_starts_at_its_value(small, asked):
    """Whole prompt there: the quantity of the clean run. Nothing there: the same, whichever way one came to it."""
    a = noiser.with_curves(small, noiser.attribute(small, "grass is", "occlusion", **asked))
    assert len(a.curves) == len(a.targets)
    for curve, target in zip(a.curves, a.targets, strict=True):
        assert curve.removed[0] == curve.kept[-1] == pytest.approx(target.value)
        assert curve.removed[-1] == curve.kept[0]
        assert sorted(curve.order) == list(range(target.context))
        assert a.scores[0][curve.order[0]] == a.scores[0].max() or len(a.targets) > 1


def test_methods_share_the_rows_that_are_equal(small):
    """Twice the same order costs nothing more than once. Mutant: edits made anew for each method."""
    once = noiser.compare(small, "grass is green", ["occlusion"])
    twice = noiser.compare(small, "grass is green", {"occlusion": {}, "noiser": {"samples": 2}})
    same = type(twice)((twice.attributions[0], twice.attributions[0]))
    spent = []
    for result in (once, same):
        before = small.token_counter.forward_tokens
        noiser.with_curves(small, result)
        spent.append(small.token_counter.forward_tokens - before)
    assert spent[0] == spent[1] > 0
    assert len(noiser.with_curves(small, twice).attributions) == 2


def test_a_long_prompt_gets_so_many_points_and_no_more(small):
    a = noiser.with_curves(small, noiser.attribute(small, "a b c d e f g h i j k l m n o p q r s", "occlusion"))
    (curve,) = a.curves
    assert len(a.tokens) > POINTS
    assert len(curve.counts) <= POINTS + 1
    assert curve.counts[:4] == (0, 1, 2, 3)
    assert curve.counts[-1] == len(a.tokens)
    assert list(curve.counts) == sorted(set(curve.counts))


def test_what_cannot_be_had_is_said(small):
    a = noiser.with_curves(small, noiser.attribute(small, "grass", "occlusion", target=lambda logits: logits.max()))
    assert a.curves == ()
    assert "no removal curves" in a.notes["warnings"][-1]
    other = noiser.LanguageModel(tiny("llama", seed=1), byte_tokenizer(), name="other", revision="2")
    with pytest.raises(OptionError, match="explains tiny"):
        noiser.with_curves(other, a)


def test_another_model_of_the_same_name_is_refused():
    """Models that the user loaded all have the name of their class. Mutant: the check of name and revision alone."""
    one, other = (noiser.load(tiny("llama", seed=seed), byte_tokenizer()) for seed in (0, 1))
    assert (one.name, one.revision) == (other.name, other.revision)
    explained = noiser.attribute(one, "abc", "uniform")
    assert noiser.with_curves(one, explained).curves
    with pytest.raises(OptionError, match="the model given holds"):
        noiser.with_curves(other, explained)


def test_curves_travel_with_the_json(small):
    a = noiser.attribute(small, "grass is", "occlusion")
    assert "curves" not in a.to_dict()
    with_them = noiser.with_curves(small, a)
    assert with_them.to_dict()["curves"] == [with_them.curves[0].to_dict()]
    assert with_them.to_dict()["curves"][0]["operator"] == "zero"


def test_whoever_watches_the_engine_is_told_and_can_stop_it(small):
    """What is done grows to what the call cost, what is left falls to 0; after a stop no more tokens go through the model."""
    told = []
    before = small.token_counter.forward_tokens
    with small.progress_callback(lambda done, left: told.append((done, left))):
        a = noiser.attribute(small, "grass is green", "noiser", samples=3)
    assert told == sorted(told, key=lambda each: each[0])
    assert told[-1] == (small.token_counter.forward_tokens - before, 0)
    assert a.cost.forward_tokens == told[-1][0]

    def stop(done, left):
        raise Stopped

    with small.progress_callback(stop), pytest.raises(Stopped):
        noiser.compare(small, "grass is green", ["occlusion", "noiser"])
    spent = small.token_counter.forward_tokens
    noiser.attribute(small, "grass is green", "occlusion")
    assert small.token_counter.forward_tokens > spent, "nobody watches any more, so nothing stops it"
