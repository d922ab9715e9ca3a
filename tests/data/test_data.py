"""Data sets: formats, faults, places and samples.

Mutants caught, each run: a bad line of a jsonl file taken for the end of it; ids that come twice let through; LongRA grouped by
type alone, or each row its own; a label's path cut at its last `+`; the cache looked into before the user's folder; a download put
in place before it is checked; the number of rows not compared; a download that broke off taken for whole.
"""

import hashlib
import json
import re
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

import noiser.data.download
import noiser.lm.gguf
from noiser.data import SETS, read, read_label_of_data, read_labelled
from noiser.errors import OptionError

FACT = {"known_id": 7, "prompt": "Oslo is in", "subject": "Oslo", "attribute": "Norway", "relation_id": "P17", "template": "{} is in"}
DISTRACTED = {"id": 1, "prompt": "I saw Peru. (It rained). The capital,", "target": "Lima", "relative": "Peru", "type": "capital"}


@pytest.fixture(autouse=True)
def _empty_places(tmp_path, monkeypatch):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NOISER_DATA", raising=False)


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_known(tmp_path):
    path = written(tmp_path / "half.json", [FACT, {**FACT, "known_id": "b"}])
    found = read("known", path)
    assert (found.name, found.kind, found.match, found.generate, found.complete) == ("known", "known", "token", None, False)
    assert (found.source, found.sha256) == ("half.json", hashlib.sha256(path.read_bytes()).hexdigest())
    first = found.rows[0]
    assert (first.id, first.prompt, first.target, first.group) == ("7", "Oslo is in", "Norway", "P17")
    assert first.fields == {"subject": "Oslo", "template": "{} is in"}
    assert read("known", written(tmp_path / "all.json", [{**FACT, "known_id": place} for place in range(1209)])).complete


def test_longra_is_grouped_by_template(tmp_path):
    other = {**DISTRACTED, "id": 3, "prompt": "She left Peru. (It snowed). In the capital,"}
    rows = [DISTRACTED, {**DISTRACTED, "id": 2, "prompt": DISTRACTED["prompt"].replace("Peru", "Cuba"), "relative": "Cuba"}]
    assert [row.group for row in read("longra", written(tmp_path / "a.json", rows)).rows] == ["capital", "capital"]
    found = read("longra", written(tmp_path / "b.json", [*rows, other])).rows
    assert [row.group for row in found] == ["capital#1", "capital#1", "capital#2"]
    assert found[1].fields == {"relative": "Cuba", "type": "capital", "template": "I saw {}. (It rained). The capital,"}


def test_wikibio_in_both_forms(tmp_path):
    found = read("wikibio", written(tmp_path / "lines.txt", "Ada was a\r\n\nThe abacus is a\n"))
    assert [(row.id, row.prompt, row.target, row.group) for row in found.rows] == [
        ("1", "Ada was a", None, None),
        ("3", "The abacus is a", None, None),
    ]
    assert (found.match, found.generate) == ("none", 10)
    texts = [{"wiki_bio_text": "Dr. Ada lived in London. She wrote.", "wiki_bio_test_idx": 9}, {"prompt": "Two. Sentences. Stay"}]
    rows = read("wikibio", written(tmp_path / "texts.json", texts)).rows
    assert [(row.id, row.prompt) for row in rows] == [("9", "Dr. Ada lived in London."), ("2", "Two. Sentences. Stay")]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("known", "{", "x.json: it is not JSON: "),
        ("known", "[" * 10**5, "x.json: it is not JSON: it is nested more than 50 deep"),
        ("known", '[{"known_id": NaN}]', "x.json: it is not JSON: NaN is no number in JSON"),
        ("known", {"rows": []}, "x.json: wanted a list of rows; got dict"),
        ("known", [], "x.json: there are no rows in it"),
        ("known", [FACT, 3], "x.json: row 2 must be an object; got int"),
        ("known", [{"known_id": 7}], "x.json: row 1 (known_id 7) has no prompt"),
        ("known", [{"prompt": "a"}], "x.json: row 1 has no known_id"),
        ("known", [{**FACT, "attribute": None}], "x.json: row 1 (known_id 7): attribute must be text that is not blank; got 'None'"),
        ("known", [{**FACT, "known_id": [1]}], "x.json: row 1 (known_id [1]): known_id must be a number or text; got '[1]'"),
        ("known", [FACT, FACT], "x.json: each row needs an id of its own; 7 came twice"),
        ("longra", [{**DISTRACTED, "relative": " "}], "x.json: row 1 (id 1): relative must be text that is not blank; got ' '"),
        ("wikibio", [{"text": "a"}], "x.json: row 1 has no wiki_bio_text"),
        ("wikibio", "\n \n", "x.json: there are no rows in it"),
    ],
)
def test_a_published_format_names_the_row_and_field(tmp_path, name, content, said):
    with pytest.raises(OptionError, match=re.escape(f"data {name}: {said}")) as caught:
        read(name, written(tmp_path / "x.json", content))
    assert f"--data {name}:path=FILE" in str(caught.value)
    assert "got " not in str(caught.value) or str(tmp_path) not in str(caught.value)


def test_a_bad_line_of_a_jsonl_file_costs_the_others_nothing(tmp_path):
    path = tmp_path / "my rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "one", "target": " a", "id": 2, "group": 4, "note": [1]}\n{"prompt": "two"}\n\n'
        b'{"prompt": [5, 6]}\r\nnot json\n\xff\n{"prompt": 3}\n{"prompt": "x", "target": 7, "id": "t"}\n'
        b'{"prompt": "\\ud800", "id": "\\ud800"}\n'
    )
    found = read(str(path))
    assert (found.name, found.kind, found.match, found.complete) == ("my rows", "jsonl", "none", False)
    assert [row.id for row in found.rows] == ["2", "2'", "4", "5", "6", "7", "t", "\\ud800"]
    assert [row.prompt for row in found.rows] == ["one", "two", [5, 6], "", "", "", "x", "\ud800"]
    assert (found.rows[0].target, found.rows[0].group, found.rows[0].fields) == (" a", "4", {"note": [1]})
    assert [row.error for row in found.rows if row.error] == [
        "line 5 is not JSON: Expecting value: line 1 column 1 (char 0)",
        "line 6: the line is not UTF-8: byte 0xff at 0",
        'line 7: wanted a "prompt" that is text, ids or messages; got 3',
    ]
    assert found.rows[6].target == "7"
    with pytest.raises(OptionError, match=r"data jsonl: twice\.jsonl: each row needs an id of its own; a came twice"):
        read("jsonl", written(tmp_path / "twice.jsonl", '{"prompt": "x", "id": "a"}\n' * 2))
    with pytest.raises(OptionError, match=r"data jsonl: none\.jsonl: there are no rows in it"):
        read("jsonl", written(tmp_path / "none.jsonl", "\n"))


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("known", ("known", None, {})),
        ("known-mini", ("known-mini", None, {})),
        ("known:path=/a:b/c+d=e.json", ("known", "/a:b/c+d=e.json", {})),
        ("known:match=word+path=x+y.json", ("known", "x+y.json", {"match": "word"})),
        ("wikibio-mini:generate=3", ("wikibio-mini", None, {"generate": 3})),
        ("jsonl:generate=none+match=token+path=a.txt", ("jsonl", "a.txt", {"generate": None, "match": "token"})),
        ("C:\\a+b=c.jsonl", ("jsonl", "C:\\a+b=c.jsonl", {})),
        ("known:rows.jsonl", ("jsonl", "known:rows.jsonl", {})),
        ("./known:a=b.jsonl", ("jsonl", "./known:a=b.jsonl", {})),
        ("a:b.csv:prompt=question+target=answer", ("jsonl", "a:b.csv", {"fields": "prompt=question,target=answer"})),
        ("jsonl:target=label+match=word+path=x.dat", ("jsonl", "x.dat", {"fields": "target=label", "match": "word"})),
    ],
)
def test_labels(label, found):
    assert read_label_of_data(label) == found


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("knwon", "--data wants known-mini, longra-mini, wikibio-mini, known, longra, wikibio, jsonl, NAME:path=FILE, or a file that"),
        ("rows.yaml", "got 'rows.yaml'"),
        ("known:prompt=a", "known:prompt=a: data has the options match, generate, limit, and path last; got 'prompt'"),
        (
            "rows.csv:prompt=",
            "fields wants prompt, target, id, group, each once at most, as in prompt=question,target=answer; got 'prompt='",
        ),
        ("known:sample=3", "known:sample=3: data has the options match, generate, limit, and path last; got 'sample'"),
        ("known:match=all", "known:match=all: match must be one of token, word, none; got 'all'"),
        ("known:generate=0", "known:generate=0: generate must be a number of tokens from 1 on, or none; got '0'"),
    ],
)
def test_labels_that_say_nothing(label, said):
    with pytest.raises(OptionError, match=re.escape(said)):
        read_label_of_data(label)


def test_a_label_carries_options():
    found = read_labelled("known-mini:match=word+generate=2")
    assert (found.match, found.generate) == ("word", 2)


@pytest.mark.parametrize(
    ("name", "path", "said"),
    [
        ("known", "no.json", "data known: there is no file no.json."),
        ("longra", None, "data longra: it is not here, and we know no place to download it from. Needed: a JSON list of "),
        ("longra", None, "give --data longra:path=FILE, or put it into a folder that NOISER_DATA names, as $NOISER_DATA/longra.json"),
        ("jsonl", None, "data jsonl: a file of your own needs its path. Needed: JSON lines, a JSON list"),
        ("known-mini", "a.json", "it comes with noiser and takes no path; for a file in its format give known:path=a.json"),
        ("nothing", None, "there is no data set 'nothing'; there are known-mini, "),
    ],
)
def test_what_is_not_here(name, path, said):
    with pytest.raises(OptionError, match=re.escape(said)):
        read(name, path)


def test_where_files_are_looked_for(tmp_path, monkeypatch):
    for place in ("cache/data", "own"):
        (tmp_path / place).mkdir(parents=True)
        written(tmp_path / place / "known_1000.json", [{**FACT, "subject": place}])
    assert read("known").rows[0].fields["subject"] == "cache/data"
    monkeypatch.setenv("NOISER_DATA", str(tmp_path / "own"))
    assert read("known").rows[0].fields["subject"] == "own"
    monkeypatch.setenv("NOISER_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(OptionError, match="NOISER_DATA must name a folder with data sets; there is no folder"):
        read("known")


@pytest.fixture
def serve(monkeypatch):
    """A server on loopback that answers every request with these bytes, and says that there are so many."""
    servers = []

    def start(body, said=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(said or len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setattr(noiser.data.download, "KNOWN_URL", f"http://127.0.0.1:{servers[-1].server_port}/known_1000.json")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_known_is_fetched_once(tmp_path, serve):
    body = json.dumps([{**FACT, "known_id": place} for place in range(1209)]).encode()
    serve(body)
    found = read("known")
    assert (found.complete, found.source, len(found.rows)) == (True, "known_1000.json", 1209)
    assert [path.name for path in (tmp_path / "cache" / "data").iterdir()] == ["known_1000.json"]
    serve(b"")
    assert read("known") == found


@pytest.mark.parametrize(
    ("body", "said", "error"),
    [
        (json.dumps([FACT]).encode(), None, "the download has 1 rows, not the 1,209 that were published; it was not kept"),
        (b"<html>moved</html>", None, "it is not JSON: "),
        (json.dumps([FACT]).encode(), 10**6, "cannot be fetched: it broke off after 129 of 1,000,000 bytes"),
        (b"[" + b" " * 20_000_000, None, "cannot be fetched: it sends more than 20,000,000 bytes"),
    ],
)
def test_what_is_fetched_is_checked_first(tmp_path, serve, body, said, error):
    serve(body, said)
    with pytest.raises(OptionError, match=re.escape(error)) as caught:
        read("known")
    assert "give --data known:path=FILE, or put it into a folder that NOISER_DATA names" in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_server_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(noiser.data.download, "KNOWN_URL", "http://127.0.0.1:9/known_1000.json")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(OptionError, match=r"data known: it is not here, and http://127\.0\.0\.1:9/known_1000\.json cannot be fetched: "):
        read("known")


def test_wikibio_comes_through_the_datasets_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match=re.escape("fetching it needs the datasets package: pip install 'noiser[data]'")):
        read("wikibio")
    rows = [{"wiki_bio_test_idx": place, "wiki_bio_text": "Ada lived here. She wrote.", "gpt3_text": "-"} for place in range(238)]
    asked = []
    hub = SimpleNamespace(load_dataset=lambda name, split: asked.append((name, split)) or rows)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    found = read("wikibio")
    assert asked == [("potsawee/wiki_bio_gpt3_hallucination", "evaluation")]
    assert (found.complete, found.rows[3].id, found.rows[3].prompt) == (True, "3", "Ada lived here.")
    hub.load_dataset = None
    assert read("wikibio") == found


def test_the_shipped_sets():
    assert {name: len(read(name).rows) for name in SETS if SETS[name].shipped} == {"known-mini": 96, "longra-mini": 40, "wikibio-mini": 20}
    for row in read("known-mini").rows:
        assert row.prompt == row.fields["template"].replace("{}", row.fields["subject"])
    by_relation = defaultdict(set)
    for row in read("known-mini").rows:
        by_relation[row.group].add(row.fields["template"])
    assert [len(templates) for templates in by_relation.values()] == [2] * 12


def test_the_relative_stands_outside_the_distractor():
    rows = read("longra-mini").rows
    types = {row.fields["type"] for row in rows}
    assert len(types) == 5
    assert {"capital-common-countries", "capital-world"} < types
    assert len({row.group for row in rows}) == 10
    for row in rows:
        main, distractors = re.subn(r"\([^()]*\)", "", row.prompt)
        assert (distractors, row.fields["relative"] in main) == (1, True)
