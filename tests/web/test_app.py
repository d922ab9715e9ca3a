"""The web app's answers: the library's own numbers, in JSON that is described, and refusals that say why."""

import base64
import hashlib
import json
import re
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from openapi_spec_validator import validate
from typer.testing import CliRunner

import noiser
from noiser.cli import app as command_line
from noiser.methods import METHODS
from noiser.views.viewer.data import view
from noiser.web.errors import HttpError
from noiser.web.openapi import openapi, own_methods
from noiser.web.requests import Limits, parse_json
from tests.web_server import serving, small

PROMPT = "the cat sat on"


@pytest.fixture(scope="module")
def served():
    with serving() as found:
        yield found


def numbers(record):
    """A result without what it cost in time and memory."""
    if isinstance(record, dict):
        return {name: numbers(value) for name, value in record.items() if name not in ("seconds", "peak_bytes", "layout")}
    return [numbers(value) for value in record] if isinstance(record, list) else record


@cache
def described_interface():
    return openapi(METHODS)


def against(name, record):
    schema = {"$ref": f"#/components/schemas/{name}", "components": described_interface()["components"]}
    jsonschema.validate(record, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"target": " x"},
        {"target": 70, "foil": 71, "quantity": "log_odds"},
        {"continuation": "ab"},
        {"generate": 3},
        {"generate": 4, "span": [1, 3]},
    ],
)
def test_an_attribution_is_what_the_library_gives(served, asked):
    """Mutant: the question left out of `attribute`."""
    answer = served.attribute(prompt=PROMPT, method="noiser", options={"samples": 3}, **asked)
    assert answer.status_code == 200
    span = {"span": tuple(asked["span"])} if "span" in asked else {}
    alone = noiser.attribute(small(), PROMPT, "noiser", samples=3, **{**asked, **span})
    assert numbers(answer.json()) == numbers(json.loads(alone.to_json()))
    against("Attribution", answer.json())


@pytest.mark.parametrize(
    "named",
    [{"spans": [{"name": "first", "start": 0, "stop": 3}]}, {"documents": [{"title": "A", "text": "be"}, {"title": "B", "text": "so"}]}],
)
def test_sources_and_words_of_the_answer_are_what_the_library_gives(served, named):
    """Bugs that it is for: the sources left out of the size, of `attribute`, of `compare`, or of the key of a kept answer."""
    plain = served.attribute(prompt=PROMPT, method="occlusion", options={"unit": "word"}, continuation="abc", explain="bc")
    asked = {"prompt": PROMPT, "continuation": "abc", "explain": "bc", **named}
    answer = served.attribute(**asked, method="occlusion", options={"unit": "span"})
    assert (plain.status_code, answer.status_code) == (200, 200)
    alone = noiser.attribute(small(), PROMPT, "occlusion", unit="span", continuation="abc", explain="bc", **named)
    assert numbers(answer.json()) == numbers(json.loads(alone.to_json()))
    against("Attribution", answer.json())
    against("Request", {**asked, "method": "occlusion"})
    compared = served.attribute(**asked, methods=["occlusion", "occlusion:unit=span"])
    assert compared.json()["attributions"][1]["scores"] == alone.to_dict()["scores"]
    view = served.events(**asked, methods=["occlusion"])[-1]["view"]
    against("View", view)
    assert view["units"]["span"]["texts"] == [*alone.by("span").units.texts]


def test_a_comparison_and_a_view_are_what_the_library_gives(served):
    methods = {"noiser": {"samples": 3}, "lime": {"samples": 8, "seed": 3}}
    found = noiser.compare(small(), PROMPT, methods)
    answer = served.attribute(prompt=PROMPT, methods=methods)
    assert numbers(answer.json()) == numbers(json.loads(found.to_json()))
    against("Comparison", answer.json())
    *before, last = served.events(prompt=PROMPT, methods=methods, curves=False)
    assert last["event"] == "result" and not last["cached"]
    assert numbers(last["view"]) == numbers(json.loads(json.dumps(view(found))))
    for event in (*before, last):
        against("Event", event)
    again = served.events(prompt=PROMPT, methods={"noiser": {"samples": "3"}, "lime": {"seed": 3, "samples": 8}}, curves=False)
    assert [event["event"] for event in again] == ["result"] and again[0]["cached"], "defaults and order of options make no other question"
    assert again[0]["view"] == last["view"]


def test_one_method_is_compared_with_itself_under_other_options(served):
    """Rows are named by their labels, in a list, in a mapping, and alone. Mutant: `keys[attribution.method]` in `_observe`."""
    labels = ["noiser:samples=2", "noiser:samples=2+bound=none", "uniform"]
    answer = served.attribute(prompt=PROMPT, methods=labels)
    assert numbers(answer.json()) == numbers(json.loads(noiser.compare(small(), PROMPT, labels).to_json()))
    assert answer.json()["methods"] == labels
    against("Comparison", answer.json())
    (*_, last) = served.events(prompt=PROMPT, methods={"noiser": {"samples": 2}, labels[1]: {}})
    assert [row.get("label", row["method"]) for row in last["view"]["rows"]] == ["noiser", labels[1]]
    against("Event", last)
    alone = served.attribute(prompt=PROMPT, method=labels[1]).json()
    assert alone["label"] == labels[1] and alone["options"]["bound"] == "none"
    against("Attribution", alone)
    for request in ({"method": labels[0]}, {"methods": labels}, {"methods": {labels[0]: {}, "noiser": {"samples": 3}}}):
        against("Request", {"prompt": PROMPT, **request})
    for wrong in (["noiser", "noiser:samples=10"], ["noiser:samples=2", "noiser:samples=2"]):
        refused = served.attribute(prompt=PROMPT, methods=wrong)
        assert refused.status_code == 422 and "noiser" in refused.json()["error"]["message"]


def test_curves_come_with_a_stream_and_where_they_are_asked_for(served):
    (*_, last) = served.events(input_ids=[70, 71, 72, 73], methods=["occlusion"])
    (curve,) = last["view"]["rows"][0]["curves"]
    assert curve["counts"] == [0, 1, 2, 3, 4]
    answer = served.attribute(input_ids=[70, 71, 72, 73], method="occlusion", curves=True).json()
    assert answer["curves"] == [curve]
    assert "curves" not in served.attribute(input_ids=[70, 71, 72, 73], method="occlusion").json()
    against("Attribution", answer)


def test_the_command_line_prints_the_same(served, monkeypatch):
    """Apart from what it took."""
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: small())
    run = CliRunner().invoke
    one = run(command_line, ["attribute", PROMPT, "--method", "lime", "--set", "samples=9", "--target", "a", "--format", "json"])
    assert numbers(json.loads(one.stdout)) == numbers(
        served.attribute(prompt=PROMPT, method="lime", options={"samples": 9}, target="a").json()
    )
    two = run(command_line, ["compare", PROMPT, "--methods", "occlusion,random", "--format", "json"])
    assert numbers(json.loads(two.stdout)) == numbers(served.attribute(prompt=PROMPT, methods=["occlusion", "random"]).json())


GOOD = {"prompt": PROMPT, "method": "uniform"}
NESTED = b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, b"", "JSON"),
        (400, b"{", "JSON"),
        (400, b"[]", "object"),
        (400, b"\xff", "UTF-8"),
        (400, NESTED, "deep"),
        (400, b'{"prompt": NaN}', "NaN"),
        (400, b'{"prompt": 1e999}', "large"),
        (400, b'{"generate": ' + b"9" * 5000 + b"}", "digits"),
        (400, b'{"prompt": "a", "prompt": "b"}', "twice"),
        (422, {}, "one of prompt"),
        (422, {**GOOD, "messages": []}, "and"),
        (422, {**GOOD, "tarjet": "a"}, "tarjet"),
        (422, {"prompt": PROMPT}, "one of method"),
        (422, {**GOOD, "methods": ["lime"]}, "both"),
        (422, {**GOOD, "method": "noise"}, "no method"),
        (422, {**GOOD, "method": "inseq:saliency"}, "no method"),
        (422, {**GOOD, "method": {"a": 1}}, "no method"),
        (422, {**GOOD, "method": "noiser:bound"}, "no method"),
        (422, {**GOOD, "method": "noiser:tarjet=1"}, "no option"),
        (422, {**GOOD, "method": "noiser:" + "+".join(["samples=3"] * 50)}, "no method"),
        (422, {**GOOD, "options": {"samples": 3}}, "no option"),
        (422, {"prompt": PROMPT, "method": "noiser", "options": {"samples": 0}}, "from 1"),
        (422, {"prompt": PROMPT, "method": "noiser", "options": {"samples": [[[[[1]]]]]}}, "short text"),
        (422, {"prompt": PROMPT, "method": "noiser", "options": {"samples": 10_000}}, None),
        (422, {"prompt": PROMPT, "methods": ["lime", "lime"]}, "once"),
        (422, {"prompt": PROMPT, "methods": []}, "names in a list"),
        (422, {"prompt": PROMPT, "methods": ["lime"], "options": {}}, "single method"),
        (422, {"prompt": 3, "method": "uniform"}, "text"),
        (422, {"prompt": "", "method": "uniform"}, "no tokens"),
        (422, {"prompt": "\ud800", "method": "uniform"}, "surrogate"),
        (422, {"input_ids": [1.5], "method": "uniform"}, "whole"),
        (422, {"input_ids": [True], "method": "uniform"}, "whole"),
        (422, {"input_ids": [10**9], "method": "uniform"}, "token ids go from"),
        (422, {"input_ids": [-1], "method": "uniform"}, "token ids go from"),
        (422, {"messages": [{"role": "user"}], "method": "uniform"}, "role and a content"),
        (422, {"messages": [{"role": "user", "content": ""}] * 101, "method": "uniform"}, "at most 100 messages"),
        (422, {"messages": [{"role": "user", "content": "hi"}], "method": "uniform"}, "chat template"),
        (422, {**GOOD, "target": {}}, "whole numbers"),
        (422, {**GOOD, "target": ""}, "no tokens"),
        (422, {**GOOD, "target": "a", "generate": 2}, "one of"),
        (422, {**GOOD, "generate": 65}, "at most"),
        (422, {**GOOD, "generate": True}, "whole number"),
        (422, {**GOOD, "continuation": "a" * 65}, "at most"),
        (422, {**GOOD, "span": [2, 1], "generate": 3}, "span"),
        (422, {**GOOD, "explain": "a"}, "give continuation or generate"),
        (422, {**GOOD, "continuation": "aba", "explain": "a"}, "2 places"),
        (422, {**GOOD, "continuation": "aba", "explain": "c"}, "not in the continuation"),
        (422, {**GOOD, "continuation": "aba", "explain": 3}, "words"),
        (422, {**GOOD, "spans": [], "documents": []}, "not both"),
        (422, {**GOOD, "documents": {}}, "a list"),
        (422, {**GOOD, "documents": ["a"]}, "number 1 of the documents"),
        (422, {**GOOD, "documents": [{"title": "a"}]}, "needs a 'text'"),
        (422, {**GOOD, "documents": [{"title": None, "text": "a"}]}, "title must be a text"),
        (422, {**GOOD, "documents": [{"text": "a", "deep": [[[1]]]}]}, "an object with title, text"),
        (422, {**GOOD, "documents": [{"title": "a", "text": "b"}] * 2}, "came twice"),
        (422, {**GOOD, "documents": [{"text": "a"}] * 201}, "at most 200"),
        (422, {**GOOD, "spans": [{"name": "a", "start": 0}]}, "the fields name, start and stop"),
        (422, {**GOOD, "spans": [{"name": "a", "start": True, "stop": 2}]}, "whole number"),
        (422, {**GOOD, "spans": [{"name": "a", "start": 0, "stop": 200}]}, "ends at character 200"),
        (422, {**GOOD, "quantity": "odds"}, "quantity"),
        (422, {**GOOD, "curves": 1}, "true or false"),
        (413, {**GOOD, "prompt": "a" * 61}, "tokens"),
        (413, {**GOOD, "prompt": "a" * 2000}, "characters"),
        (413, {**GOOD, "documents": [{"title": "a", "text": "b" * 32}]}, "tokens"),
        (413, {**GOOD, "documents": [{"title": "a", "text": "b" * 2000}]}, "characters"),
        (413, {"input_ids": [70] * 61, "method": "uniform"}, "tokens"),
    ],
)
def test_what_makes_no_sense_is_said_to_make_none(status, body, said):
    """One server for all; each answer names its fault in a sentence, and the next request is answered."""
    if said is None:
        said = "at most"
    served = crowd()
    answer = served.post("/api/attribute", body)
    assert answer.status_code == status, answer.text
    against("Error", answer.json())
    assert said in answer.json()["error"]["message"] and len(answer.content) < 1500
    assert "Traceback" not in answer.text
    assert served.attribute(**GOOD).status_code == 200


_open = []


def crowd():
    """A server with narrow limits, for the whole module."""
    if not _open:
        context = serving(limits=Limits(max_tokens=60, max_draws=50_000))
        _open.extend([context, context.__enter__()])
    return _open[1]


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    while _open:
        _open.pop(0).__exit__(None, None, None)
        _open.clear()


@pytest.mark.timeout(30)
def test_many_names_take_no_longer_than_they_have_to():
    """What a body may hold at most, one name twice at its end: the square of their number would take a minute, for everybody."""
    names = ",".join(f'"{number:05}":1' for number in range(26_000))
    with pytest.raises(HttpError, match="'zz' is there twice"):
        parse_json(f'{{{names},"zz":1,"zz":1}}'.encode())


def test_a_stream_says_what_is_wrong(served):
    """What can be seen at once is a status; what the model finds is an event."""
    assert served.post("/api/explain", {"prompt": PROMPT}).status_code == 422
    (*_, last) = served.events(prompt="a" * 65, methods=["uniform"])
    assert last["event"] == "error" and last["class"] == "PromptError" and "65 tokens" in last["message"]


def test_a_method_that_fails_costs_the_others_nothing(served, monkeypatch):
    def refuses(*_, **__):
        raise noiser.errors.ModelError("not with \u202ethis model")

    monkeypatch.setitem(METHODS, "recency", noiser.registry.Method(name="recency", source="", family="", function=refuses))
    (*_, last) = served.events(prompt="abc", methods=["recency", "uniform"])
    assert last["view"]["failures"] == {"recency": "not with \\u202ethis model"}
    (*_, last) = served.events(prompt="abc", methods=["recency"])
    assert last == {"event": "error", "class": "ModelError", "message": "not with \\u202ethis model"}


def test_a_fault_of_ours_is_a_500_without_its_traceback(served, monkeypatch, caplog):
    def breaks(*_, **__):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("noiser.web.worker.attribute", breaks)
    answer = served.attribute(prompt="never asked", method="uniform")
    assert answer.status_code == 500 and "secret" not in answer.text and answer.json()["error"]["class"] == "InternalError"
    assert "secret detail" in caplog.text
    monkeypatch.undo()
    assert served.attribute(prompt="never asked", method="uniform").status_code == 200


def test_out_of_memory_is_said(served, monkeypatch):
    def breaks(*_, **__):
        raise MemoryError

    monkeypatch.setattr("noiser.web.worker.attribute", breaks)
    assert served.attribute(prompt="too large", method="uniform").status_code == 507


def test_the_page_runs_its_own_script_and_nothing_else(served):
    """Mutant: the style's hash for the script's."""
    with served.client() as client:
        answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    for kind in ("script", "style"):
        inside = re.findall(rf"<{kind}>(.*?)</{kind}>", answer.text, re.DOTALL)
        assert len(inside) == 1
        assert f"sha256-{base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()}" in policy
    assert not re.search(r"""<[^>]+\s(on\w+|style)=["']""", re.sub(r"<(script|style)>.*?</\1>", "", answer.text, flags=re.DOTALL))


@pytest.mark.parametrize("path", ["/", "/template.html", "/openapi.json", "/api/about", "/nothing", "/api/attribute"])
def test_every_answer_carries_its_headers(served, path):
    with served.client() as client:
        answer = client.get(path)
    assert answer.status_code == {"/nothing": 404, "/api/attribute": 405}.get(path, 200)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store" and answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert "server" not in answer.headers
    if answer.status_code >= 400:
        against("Error", answer.json())


def test_the_template_waits_for_its_data(served):
    with served.client() as client:
        assert ">[]</script>" in client.get("/template.html").text


def test_the_interface_is_described(served):
    with served.client() as client:
        validate(client.get("/openapi.json").json())
        about = client.get("/api/about").json()
    against("About", about)
    assert about["status"] == "ready" and about["chat"] is False and about["limits"]["max_tokens"] == 2048


def test_the_description_in_docs_is_that_of_today():
    """Made by: python -m noiser.web.openapi > docs/openapi.json."""
    kept = Path(__file__).parents[2] / "docs" / "openapi.json"
    assert json.loads(kept.read_text()) == json.loads(json.dumps(openapi(own_methods())))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_option_has_a_form(name):
    """Whatever a form allows, the method takes; what is outside it refuses. Mutant: `low` and `high` exchanged."""
    for option in (described.to_dict() for described in METHODS[name].described_options):
        allowed = [option["default"], *option.get("choices", ()), *([None] if option["optional"] else [])]
        if option["type"] != "choice" and "low" in option:
            allowed += [option["low"], option["high"]]
            with pytest.raises(noiser.errors.OptionError):
                METHODS[name].resolve({option["name"]: option["high"] + 1})
        for value in allowed:
            try:
                METHODS[name].resolve({option["name"]: value})
            except noiser.errors.OptionError as error:
                together = ("official", "bracket", "norm", "samples=auto", "bound=rms")  # only together with others
                assert any(each in str(error) for each in together)


@pytest.mark.slow
def test_the_examples_are_answered(smol):
    """By the default model, which finds the token that each is about."""
    with serving(lambda: smol) as served, served.client() as client:
        examples = client.get("/api/about").json()["examples"]
        said = {}
        for example in examples:
            request = {name: value for name, value in example.items() if name != "title"}
            answer = served.attribute(**request, method="uniform").json()
            said[example["title"]] = "".join(token for target in answer["targets"] for token in target["tokens"])
    assert said["A fact"] == " Paris" and said["Remembering a name"] == " Rex" and said["An answer under way"] == " Ada"
    assert said["A chat"].startswith("The opposite of hot is cold")
