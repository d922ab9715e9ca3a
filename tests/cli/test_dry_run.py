"""`noiser attribute --dry-run`: the cost in words and in JSON, for one prompt and for a file; nothing is explained.

Mutants caught: `scale` left out, so that a long file costs what 20 prompts cost; `dry_run` called after the explanation; the format
not checked before the model is loaded; exit status 0 although a row cannot be read; `lm.forward` instead of the scheduler,
so that whatever a model raises on one prompt ends the command.
"""

import json

import pytest

import noiser
from tests.conftest import tiny


@pytest.fixture(autouse=True)
def loads(monkeypatch, tokenizer):
    calls = []

    def load(model, **options):
        calls.append(model)
        return noiser.LanguageModel(tiny("llama"), tokenizer, token_budget=options["token_budget"])

    def explains(*_arguments):
        raise AssertionError("a dry run explains nothing")

    monkeypatch.setattr("noiser.lm.load.load", load)
    monkeypatch.setattr("noiser.attribution.explain.as_attribution", explains)
    return calls


def test_a_prompt_in_words(command_line):
    code, out, _ = command_line("attribute", "abcd", "--dry-run", "--method", "occlusion")
    assert code == 0
    assert out.startswith("occlusion on a prompt of 4 tokens: 4 rows, 14 token-forwards\nabout ")
    code, out, _ = command_line("attribute", "abcd", "--dry-run")
    assert "noiser on a prompt of 4 tokens: at least " in out
    assert "Its usual cost for a target: 1.2 to 2 times" in out


def test_a_file_is_estimated_from_some_of_its_prompts(command_line, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("abcd\n" * 60)
    code, out, _ = command_line("attribute", "--file", file, "--dry-run", "--method", "occlusion")
    record = json.loads(out)
    assert code == 0
    assert (record["prompts"], record["estimated"], record["rows"], record["forward_tokens"]) == (60, 20, 240, 840)
    assert (record["exact"], record["least"]) == (False, False)
    assert "from 20 of the prompts" in command_line("attribute", "--file", file, "--dry-run", "--format", "heatmap")[1]


def test_a_row_that_cannot_be_read_is_said(command_line, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "abcd"}\n{"prompt": 5}\n')
    code, out, err = command_line("attribute", "--file", file, "--dry-run", "--method", "occlusion")
    assert (code, json.loads(out)["prompts"]) == (1, 1)
    assert "1 of 2 rows cannot be read" in err


def test_a_prompt_that_fails_costs_itself_only(command_line, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("abcd\n" + "x" * 70 + "\nabcd\n")  # the model takes 64 tokens
    code, out, _ = command_line("attribute", "--file", file, "--dry-run", "--method", "occlusion")
    assert (code, json.loads(out)["prompts"], json.loads(out)["rows"]) == (1, 2, 8)
    code, out, err = command_line("attribute", "x" * 70, "--dry-run", "--method", "occlusion")
    assert (code, out) == (1, "")
    assert "the model takes 64" in err


def test_a_model_that_fails_on_one_prompt_costs_that_prompt_only(command_line, tmp_path, monkeypatch):
    from noiser.lm.model import LanguageModel

    forward = LanguageModel.forward

    def fails(self, requests):
        if any(len(request.prompt) == 5 for request in requests):
            raise IndexError("five")
        return forward(self, requests)

    monkeypatch.setattr(LanguageModel, "forward", fails)
    file = tmp_path / "prompts.txt"
    file.write_text("abcd\nabcde\nabcd\n")
    code, out, err = command_line("attribute", "--file", file, "--dry-run", "--method", "occlusion")
    assert (code, json.loads(out)["prompts"], json.loads(out)["rows"]) == (1, 2, 8)
    assert "left out of the estimate: " in err and "five" in err


def test_an_estimate_is_no_picture(command_line, loads):
    code, _, err = command_line("attribute", "abcd", "--dry-run", "--format", "html")
    assert (code, loads) == (2, [])
    assert "--dry-run writes text or --format json, no html" in err
