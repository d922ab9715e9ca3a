"""Where the sources of a prompt are in it: the messages of a chat, parts, tool calls and results, and documents.

Mutants caught, each run: parts all looked for from the beginning; the second call named as the first; numbers on a role that comes once;
a result named by its id; the title left out of a document's span; documents beside the template that reads them; the question
tokenised apart from the documents.
"""

import json

import numpy as np
import pytest

import noiser
from noiser.errors import NoiserError, OptionError, PromptError
from noiser.lm.documents import read_documents
from noiser.text.units import units
from tests.conftest import byte_tokenizer, tiny
from tests.tokenizers_built_here import byte_level

TOOLS = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% elif m.content %}"
    "{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}|{{ c.function.arguments | tojson }}]{% endfor %}\n{% endfor %}"
)
RAG = "{% for d in documents %}# {{ d.title }}\n{{ d.text }}\n{% endfor %}{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
DOCUMENTS = [{"title": "Bridges", "text": "The bridge is old."}, {"title": "Rivers", "text": "The river is cold.\nÜber alles."}]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "rain "}, {"type": "text", "text": "in rain "}, {"type": "text", "text": "rain"}],
    },
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}},
            {"id": "c2", "type": "function", "function": {"name": "get_time", "arguments": '{"city": "Bern"}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "wet"},
    {"role": "tool", "tool_call_id": "c2", "content": "late"},
    {"role": "user", "content": "And rain?"},
]


def lm_with(template=None, build=byte_level):
    tokenizer = build()
    tokenizer.chat_template = template
    return noiser.LanguageModel(tiny("llama", max_position_embeddings=512), tokenizer)


def named(prompt):
    return {span.name: prompt.text[span.start : span.stop] for span in prompt.spans}


def test_messages_parts_calls_and_results_are_spans_with_readable_names():
    prompt = lm_with(TOOLS).prompt(CHAT)
    assert named(prompt) == {
        "system": "Be brief.",
        "user 1": "rain in rain rain",
        "user 1, part 1": "rain",
        "user 1, part 2": "in rain",
        "user 1, part 3": "rain",
        "assistant": 'get_weather|{"city": "Oslo"}][get_time|{"city": "Bern',
        "assistant, call of get_weather": 'get_weather|{"city": "Oslo"}][',
        "assistant, call of get_time": 'get_time|{"city": "Bern',
        "result of get_weather": "wet",
        "result of get_time": "late",
        "user 2": "And rain?",
    }
    starts = [span.start for span in prompt.spans if "part" in span.name]
    assert starts == sorted(starts)
    assert len(set(starts)) == 3


def test_two_results_of_one_tool_have_names_of_their_own():
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call | {"id": "1"}, call | {"id": "2"}]}]
    chat += [{"role": "tool", "tool_call_id": number, "content": f"seen {number}"} for number in "12"]
    prompt = lm_with(TOOLS).prompt(chat)
    found = named(prompt)
    first, second = (next(s.start for s in prompt.spans if s.name == f"assistant, call of look{n}") for n in ("", " (2)"))
    assert first < second
    assert found["result of look"] == "seen 1"
    assert found["result of look (2)"] == "seen 2"


def test_documents_in_plain_text_change_nothing_but_what_stands_before_the_question():
    lm = lm_with()
    prompt = lm.prompt("Which is old? The", documents=DOCUMENTS)
    text = "Document 1: Bridges\nThe bridge is old.\n\nDocument 2: Rivers\nThe river is cold.\nÜber alles.\n\nWhich is old? The"
    assert prompt.text == text
    assert prompt.input_ids == lm.prompt(text).input_ids
    assert named(prompt) == {
        "Bridges": "Document 1: Bridges\nThe bridge is old.",
        "Rivers": "Document 2: Rivers\nThe river is cold.\nÜber alles.",
        "question": "Which is old? The",
    }


def test_a_template_that_reads_documents_gets_them():
    lm = lm_with(RAG)
    prompt = lm.prompt("Which is old?", documents=DOCUMENTS)
    assert prompt.text == "# Bridges\nThe bridge is old.\n# Rivers\nThe river is cold.\nÜber alles.\n<s>Which is old?</s>"
    found = named(prompt)
    assert found["Bridges"] == "Bridges\nThe bridge is old."
    assert found["Rivers"] == "Rivers\nThe river is cold.\nÜber alles."
    assert found["user"] == "Which is old?"
    assert not prompt.warnings


def test_a_document_that_the_template_leaves_out_is_a_warning():
    lm = lm_with("{% set _ = documents %}{{ documents[0].text }}{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    prompt = lm.prompt("Which?", documents=DOCUMENTS)
    assert set(named(prompt)) == {"Bridges", "user"}
    assert any("leaves out document 'Rivers'" in warning for warning in prompt.warnings)


def test_in_a_chat_whose_template_reads_no_documents_they_stand_in_the_users_message():
    prompt = lm_with(TOOLS).prompt([{"role": "system", "content": "Hi."}, {"role": "user", "content": "Which?"}], documents=DOCUMENTS)
    found = named(prompt)
    assert found["user"].startswith("Document 1: Bridges")
    assert found["user"].endswith("Which?")
    assert found["Rivers"] == "Rivers\nThe river is cold.\nÜber alles."


@pytest.mark.parametrize("method", ["occlusion", "noiser:bound=none+samples=3", "lime:samples=20", "shapley"])
def test_a_span_is_perturbed_as_a_whole(method):
    lm = lm_with()
    found = noiser.attribute(lm, "Which is old? The", method, documents=DOCUMENTS, unit="span")
    cut = units(found.prompt, "span")
    for members in cut.members:
        assert np.ptp(found.scores[0, list(members)]) == 0
    alone = noiser.attribute(lm, lm.prompt("Which is old? The", documents=DOCUMENTS), method, unit="span")
    np.testing.assert_array_equal(found.scores, alone.scores)
    sums = found.by("span")
    assert sums.units.texts == ("Bridges", "Rivers", "question")
    np.testing.assert_allclose(sums.scores.sum() + sums.rest.sum(), found.scores.sum())


def test_spans_are_saved_and_read_back(tmp_path):
    lm = lm_with()
    found = noiser.attribute(lm, "one two three", "occlusion", spans=[{"name": "first", "start": 0, "stop": 7}])
    (tmp_path / "a.json").write_text(found.to_json())
    assert json.loads(found.to_json())["prompt"]["spans"] == [{"name": "first", "start": 0, "stop": 7}]
    again = noiser.read(tmp_path / "a.json")
    assert isinstance(again, noiser.Attribution)
    assert again.prompt == found.prompt


BAD = {
    "a text": "Bridges",
    "nothing": [],
    "no text": [{"title": "a"}],
    "an empty text": [{"title": "a", "text": "\n"}],
    "an empty title": [{"title": "", "text": "b"}],
    "another field": [{"title": "a", "text": "b", "url": "c"}],
    "a title twice": [{"title": "a", "text": "b"}, {"title": "a", "text": "c"}],
    "no Unicode": [{"title": "a", "text": "\ud800"}],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_documents_are_refused(case):
    with pytest.raises(PromptError):
        read_documents(BAD[case])


def test_documents_without_titles_are_numbered():
    assert [document["title"] for document in read_documents([{"text": "a"}, {"text": "b"}])] == ["document 1", "document 2"]


@pytest.mark.parametrize("arguments", [{"spans": [], "documents": DOCUMENTS}, {"documents": [1]}, {"spans": [1]}], ids=str)
def test_what_does_not_fit_is_refused(arguments):
    with pytest.raises(NoiserError):
        lm_with().prompt("text", **arguments)


def test_tokens_have_no_documents():
    with pytest.raises(PromptError, match="text or messages"):
        lm_with().prompt([1, 2, 3], documents=DOCUMENTS)


def test_a_prompt_without_spans_says_how_to_get_some():
    with pytest.raises(OptionError, match="give spans, documents or a chat"):
        noiser.attribute(noiser.LanguageModel(tiny("llama"), byte_tokenizer()), "a b", "occlusion", unit="span")
