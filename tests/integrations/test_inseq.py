"""Our methods at home in Inseq: as its host runs, shows and saves them, they are what our own door says.

Mutants caught: the padding handed on with the ids; the mask upside down; the target of the step before; options dropped,
or only those of `load_model` kept; `abs()` or a normalising output class; unknown options passed over, or refused only
after the text was generated; a new engine at each step; the logit attributed when Inseq was asked for it.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config

import noiser
from noiser.errors import ModelError, OptionError
from noiser.lm.restore import restore_after
from tests.conftest import byte_tokenizer, tiny
from tests.lm.test_restore import raise_at, same, state

inseq = pytest.importorskip("inseq")
import noiser.integrations.inseq as ours  # noqa: E402

FEW = {"samples": 2, "steps": 3}
LETTERS = list(range(67, 90))
ROOT = Path(__file__).parents[2]


def hosted(model=None, tokenizer=None, **options):
    return inseq.load_model(model or tiny("llama"), "noiser", tokenizer=tokenizer or byte_tokenizer(), **options)


def letters_only(*_):
    return LETTERS


def expected(host, sequence, step, **options):
    """What our own door says of that step: the prefix's ids in, the step's token as the target."""
    end = sequence.attr_pos_start + step
    ids = [token.id for token in sequence.target]
    return noiser.attribute(noiser.LanguageModel(host.model, host.tokenizer), ids[:end], target=ids[end], **options).scores[0]


def check_every_step(host, out, **options):
    for sequence in out.sequence_attributions:
        assert sequence.target_attributions.shape[1] > 0
        for step in range(sequence.target_attributions.shape[1]):
            shown = sequence.target_attributions[:, step].numpy()
            ours_says = expected(host, sequence, step, **options)
            np.testing.assert_allclose(shown[: len(ours_says)], ours_says, atol=1e-6)
            assert np.isnan(shown[len(ours_says) :]).all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_forced_generations_get_our_scores_at_every_step(family):
    host = hosted(tiny(family))
    out = host.attribute(["abcdef", "xy"], ["abcdefghi", "xyz"], show_progress=False, samples=3, seed=1, steps=3)
    assert [len(sequence.target) for sequence in out.sequence_attributions] == [9, 3]
    check_every_step(host, out, samples=3, seed=1, steps=3)


def test_a_left_padded_batch_with_step_scores_gets_our_scores():
    host = hosted(samples=2)
    generation = {"max_new_tokens": 3, "do_sample": False, "prefix_allowed_tokens_fn": letters_only}
    out = host.attribute(
        ["abcdefgh", "xyz", "pq"],
        generation_args=generation,
        show_progress=False,
        attribute_target=True,
        step_scores=["probability"],
        steps=3,
    )
    check_every_step(host, out, **FEW)
    for sequence in out.sequence_attributions:
        lm = noiser.LanguageModel(host.model, host.tokenizer)
        ids = [token.id for token in sequence.target]
        start = sequence.attr_pos_start
        found = noiser.attribute(lm, ids[:start], target=ids[start], **FEW).target.prob
        assert float(sequence.step_scores["probability"][0]) == pytest.approx(found, abs=1e-5)


def test_inseq_shows_aggregates_saves_and_loads_the_signed_scores_unchanged(tmp_path):
    host = hosted()
    out = host.attribute("abcdef", "abcdefgh", show_progress=False, step_scores=["probability"], **FEW)
    raw = out.sequence_attributions[0].target_attributions
    assert (raw.nan_to_num() < 0).any() and (raw.nan_to_num() > 0).any()
    aggregated = out.aggregate().sequence_attributions[0].target_attributions
    torch.testing.assert_close(aggregated, raw, equal_nan=True, rtol=0, atol=0)
    assert "probability" in out.show(display=False, return_html=True)
    out.save(tmp_path / "out.json")
    loaded = inseq.FeatureAttributionOutput.load(tmp_path / "out.json")
    torch.testing.assert_close(loaded.aggregate().sequence_attributions[0].target_attributions, raw, equal_nan=True, rtol=0, atol=0)


def test_what_we_cannot_explain_is_refused_in_our_words():
    host = hosted()
    runs = raise_at(host.model, 0, ValueError())
    with pytest.raises(OptionError, match=r"noiser has no option 'sample'; it has samples, steps"):
        host.attribute("ab", show_progress=False, sample=5)
    assert not runs
    with pytest.raises(OptionError, match="no option 'sample'"):
        hosted(sample=5)
    with pytest.raises(OptionError, match="explains the target's probability"):
        hosted().attribute("ab", "abc", show_progress=False, attributed_fn="logit")
    t5 = AutoModelForSeq2SeqLM.from_config(T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, bos_token_id=1))
    with pytest.raises(ModelError, match="encoder-decoder"):
        hosted(t5)


def test_the_engine_is_made_once_and_leaves_all_as_found(monkeypatch):
    made = []
    monkeypatch.setattr(ours, "LanguageModel", lambda *given: made.append(1) or noiser.LanguageModel(*given))
    host = hosted()
    host.model.train()
    before = state(host.model, host.tokenizer)
    for _ in range(2):
        host.attribute("abcd", "abcdefg", show_progress=False, **FEW)
    assert len(made) == 1
    theirs = {"tokenizer's backend": None}  # Inseq tokenises with padding and truncation, and leaves them set
    same(before | theirs, state(host.model, host.tokenizer) | theirs)


def test_bfloat16_too():
    host = hosted(tiny("llama").to(torch.bfloat16))
    check_every_step(host, host.attribute("abcdef", "abcdefgh", show_progress=False, **FEW), **FEW)


def test_the_real_model_and_tokenizer_of_ours(smol):
    with restore_after(smol.model, smol.tokenizer):
        host = hosted(smol.model, smol.tokenizer)
        text = "The Eiffel Tower is located in the city of"
        out = host.attribute(text, text + " Paris", show_progress=False, **FEW)
        check_every_step(host, out, **FEW)
    assert out.sequence_attributions[0].target[-1].token == "ĠParis"


@pytest.mark.slow
def test_inseqs_command_line_with_our_methods_in_it(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    arguments = ["--model_name_or_path", tmp_path / "model", "--attribution_method", "noiser", "--input_texts", "abcd"]
    arguments += ["--generated_texts", "abcdef", "--device", "cpu", "--attribution_kwargs", '{"samples": 2, "steps": 3}']
    arguments += ["--save_path", tmp_path / "out.json", "--hide"]
    command = [sys.executable, "-m", "noiser.integrations.inseq", "attribute", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    saved = inseq.FeatureAttributionOutput.load(tmp_path / "out.json")
    check_every_step(hosted(), saved, **FEW)
