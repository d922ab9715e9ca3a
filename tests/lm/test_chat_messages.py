"""Messages as servers take them: parts of text, tool calls without a content, tool results; and what a template reads besides them."""

import json

import pytest
from typer.testing import CliRunner

import noiser
from noiser.cli import app
from noiser.errors import OptionError, PromptError
from noiser.experiments.folder import RunFolder
from noiser.lm.chat import _first_that_renders
from noiser.lm.tokenizer import Tokens
from noiser.text.prompt import parse_template_args, read_template_args
from noiser.text.units import units
from tests.conftest import byte_tokenizer, tiny

START = "{% for m in messages %}<s>{{ m.role }}\n"
END = "</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}"
PLAIN = START + "{{ m.content }}" + END
WALKING = START + "{% for part in m.content %}{{ part.text }}{% endfor %}" + END
CALLS = (
    "{% if tools %}{{ tools | tojson }}\n{% endif %}{% if date_string is defined %}{{ date_string }}\n{% endif %}"
    + START
    + "{% if m.name %}({{ m.name }}) {% endif %}{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    + "<call>{{ call.function.name }} {{ call.function.arguments | tojson }}</call>{% endfor %}"
    + END
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CHAT = [
    {"role": "user", "content": "Rain?", "name": "Eva"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "function": {"name": "time", "arguments": {"zone": 1}}}]},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "4 degrees"}]},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


def reading(template: str, **template_args) -> Tokens:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return Tokens(tokenizer, None, len(tokenizer), template_args)


def parts(*texts):
    return [{"role": "user", "content": [{"type": "text", "text": text} for text in texts]}]


def contents(prompt):
    return ["".join(prompt.tokens[token] for token in turn.tokens) for turn in prompt.turns]


@pytest.mark.parametrize(("template", "separator"), [(PLAIN, "\n"), (WALKING, "")])
def test_parts_of_text_are_read_by_templates_that_know_them_and_by_others(template, separator):
    """Mutant: `_walks_parts` returns True: the plain template writes the list down as Python does."""
    prompt = reading(template).prompt(parts("the cat", "sat"))
    assert prompt.text == f"<s>user\nthe cat{separator}sat</s>\n<s>assistant\n"
    assert contents(prompt) == [f"the cat{separator}sat"]
    assert prompt.warnings == ()


def test_tool_calls_and_results_are_turns():
    """Mutants: `_parsed_call` returns `call`: the arguments are a text in a text; `_calls_span` returns (0, 0)."""
    prompt = reading(CALLS).prompt(CHAT)
    assert '<call>weather {"city": "Oslo"}</call><call>time {"zone": 1}</call>' in prompt.text
    assert "(Eva) Rain?" in prompt.text
    assert contents(prompt) == ["Rain?", 'weather {"city": "Oslo"}</call><call>time {"zone": 1', "4 degrees"]
    assert len(units(prompt, "turn").texts) == 3
    assert prompt.warnings == ()
    assert CHAT[1]["tool_calls"][0] == CALL


def test_what_a_template_leaves_out_is_said_and_null_is_never_a_word():
    """Mutant: `_left_out` without its second warning."""
    own = reading(PLAIN)
    prompt = own.prompt(CHAT)
    assert "None" not in prompt.text
    assert prompt.warnings == ("the chat template leaves out the tool calls of message 1: the model does not see them",)
    lost = reading(PLAIN.replace("m.content", "''")).prompt([{"role": "user", "content": "hi"}])
    assert lost.warnings == ("the chat template leaves out the content of message 0, or writes it in another way",)
    found = noiser.attribute(noiser.LanguageModel(tiny("llama", vocab_size=259), own.tokenizer), CHAT[:2], "uniform")
    assert found.notes["warnings"] == list(prompt.warnings)


def test_a_null_content_is_empty_where_it_would_be_written_down():
    """Mutant: `_writes_none` returns False. Newer releases of transformers drop null fields themselves; this holds for all."""
    text, form = _first_that_renders(lambda messages: "".join(str(message["content"]) for message in messages), CHAT[:2])
    assert (text, form[1]["content"]) == ("Rain?", "")


def test_arguments_stay_a_text_for_a_template_that_joins_texts():
    """Mutant: `_forms` without `given`: joining text and an object is an error."""
    joining = START + "{% for call in m.tool_calls or [] %}{{ '<' + call.function.arguments + '>' }}{% endfor %}" + END
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert '<{"city": "Oslo"}>' in reading(joining).prompt([call]).text


def test_template_args_reach_the_template_and_unknown_ones_are_refused():
    """Mutants: `**template_args` left out of `apply`; `unknown` always empty: a misspelled name would do nothing."""
    own = reading(CALLS, tools=[TOOL], date_string="26 July")
    text = own.prompt(CHAT).text
    assert text.startswith(json.dumps([TOOL]) + "\n26 July\n<s>user")
    with pytest.raises(PromptError, match="no variable enable_thinking; it has date_string, tools"):
        reading(CALLS, enable_thinking=False).prompt(CHAT)
    with pytest.raises(PromptError, match="no variable tools; it has none"):
        reading(PLAIN, tools=[TOOL]).prompt(CHAT)


def test_template_args_as_a_user_writes_them(tmp_path):
    """Mutant: `_read_value` returns its text: `enable_thinking` would be the true text `false`."""
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    found = parse_template_args("enable_thinking=false, date_string=26 July 2024,tools=tools.json", tmp_path)
    assert found == {"enable_thinking": False, "date_string": "26 July 2024", "tools": [TOOL]}
    assert parse_template_args('{"a": [1, 2]}') == {"a": [1, 2]}
    for text, reason in [
        ("thinking", "NAME=VALUE pairs"),
        ("", "NAME=VALUE pairs"),
        ("a=1,a=2", "a came twice"),
        ("messages=1", "cannot hold messages"),
        ("tools=nothing.json", "tools names a JSON file"),
        ('tools={"a": 1}', "tools must be a list"),
        ('{"a": ', "must be a JSON object"),
        ("1a=1", "must map names to values"),
    ]:
        with pytest.raises(OptionError, match=reason):
            parse_template_args(text, tmp_path)
    with pytest.raises(OptionError, match="plain values"):
        read_template_args({"a": {1, 2}})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model whose template writes today's date, and two chats."""
    folder = tmp_path_factory.mktemp("chats")
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%j') %}{% endif %}{{ date_string }}\n" + PLAIN
    )
    tiny("llama", vocab_size=259).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"id": f"p{n}", "prompt": [{"role": "user", "content": text}]} for n, text in enumerate(("hi", "rain?"))]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "one.json").write_text(json.dumps(rows[0]["prompt"]))
    return folder


def command(place, out, *more):
    words = ["run", "--models", str(place / "model"), "--data", str(place / "chats.jsonl"), "--methods", "uniform", "--metrics", ""]
    ended = CliRunner().invoke(app, [*words, "--controls", "", "--out", str(out), *more])
    return ended.exit_code, str(ended.exception), ended


def another_day(monkeypatch):
    """From here on `strftime_now` gives another day."""
    from datetime import datetime as real

    from transformers.utils import chat_template_utils

    class Later:
        now = staticmethod(lambda *_: real(2020, 2, 3))

    monkeypatch.setattr(chat_template_utils, "datetime", Later)


def test_a_run_never_mixes_two_days(place, tmp_path, monkeypatch):
    """Mutant: `_check_rendered` left out of `_run`: the second chat would be explained with another date."""
    assert command(place, tmp_path / "run", "--time-limit", "0")[0] == 75
    another_day(monkeypatch)
    code, reason, _ = command(place, tmp_path / "run")
    assert code == 1
    assert "renders p0 of chats to another text than when this run began" in reason
    fixed = ("--template-args", "date_string=26 July")
    assert command(place, tmp_path / "fixed", *fixed, "--time-limit", "0")[0] == 75
    monkeypatch.undo()
    assert command(place, tmp_path / "fixed", *fixed)[0] == 0


def test_template_args_belong_to_a_runs_identity(place, tmp_path):
    """Mutant: `template_args` left out of the models' facts: a folder would take the records of two settings."""
    assert command(place, tmp_path / "run", "--template-args", "date_string=monday")[0] == 0
    (model,) = RunFolder.open(tmp_path / "run").fingerprint["models"].values()
    assert model["template_args"] == {"date_string": "monday"}
    code, reason, _ = command(place, tmp_path / "run", "--template-args", "date_string=tuesday")
    assert code == 1
    assert "holds another run" in reason


def test_template_args_are_for_chats(place):
    """Mutant: `check_chat` not called: the arguments would do nothing."""
    model = ["--model", str(place / "model"), "--method", "uniform", "--template-args", "date_string=monday"]
    ended = CliRunner().invoke(app, ["attribute", "hello", *model])
    assert "--template-args are for chats" in str(ended.exception)
    shown = CliRunner().invoke(app, ["attribute", "--messages", str(place / "one.json"), *model, "--format", "json"])
    assert json.loads(shown.stdout)["prompt"]["text"].startswith("monday\n<s>user")
