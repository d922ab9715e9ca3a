"""Files as people bring them: read by name and content, said how, or refused by name.

Mutants caught, each run: JSON lines in a .txt taken for text; the header of a table taken for a row; a quoted line break that ends a
row; UTF-16 without a mark taken for UTF-8; the assistant's answer left in the prompt; the first choice of a sample log taken for the
right one; a repeated doc kept; a number as a target taken for an id; `fields` not looked up; an unknown ShareGPT speaker let through.
"""

import gzip
import io
import json

import pytest

from noiser.data import read, read_file
from noiser.errors import OptionError

ROWS = [{"prompt": "Oslo is in", "target": "Norway"}, {"prompt": "Rome is in", "target": "Italy"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = "prompt,target\r\nOslo is in,Norway\r\nRome is in,Italy\r\n"
USER, ASSISTANT = {"role": "user", "content": "Name one colour."}, {"role": "assistant", "content": "Red"}


def parquet(rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def found(content, name="x", fields=None):
    return read_file(content if isinstance(content, bytes) else content.encode(), name, fields)


def one(row, fields=None):
    """The only row of a file with this row, and what was said about it."""
    result = found(json.dumps(row) + "\n", "x.jsonl", fields)
    (only,) = result.rows
    return only, " ".join(result.remarks)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (LINES, "x.jsonl"),
        (LINES, "x.txt"),
        (LINES, "x.json"),
        (LINES, "-"),
        (LINES.encode("utf-16"), "x.jsonl"),
        (LINES.encode("utf-16-be"), "x.jsonl"),
        (json.dumps(ROWS), "x.json"),
        (json.dumps(ROWS, indent=1), "x.jsonl"),
        (json.dumps({"version": 1, "data": ROWS}, indent=1), "x.json"),
        (TABLE, "x.csv"),
        (TABLE, "x.txt"),
        ("\ufeff" + TABLE.replace(",", ";"), "x.csv"),
        ("sep=;\r\n" + TABLE.replace(",", ";"), "x.csv"),
        (TABLE.replace(",", "\t").encode("utf-16-le"), "x.tsv"),
        (parquet(ROWS), "x.parquet"),
        (parquet(ROWS), "x"),
    ],
)
def test_the_same_rows_come_out_of_every_format(content, name):
    result = found(content, name)
    assert [(row.prompt, row.target, row.error) for row in result.rows] == [(row["prompt"], row["target"], "") for row in ROWS]
    assert bool(result.remarks) == (content is not LINES or name in ("x.txt", "x.json", "-")), "said unless the name says it"


def test_text_is_one_prompt_a_line_and_says_nothing():
    result = found("One, two\n\n{three}\r\n[4]: five\nsix \x85 seven")
    assert [row.prompt for row in result.rows] == ["One, two", "{three}", "[4]: five", "six \x85 seven"]
    assert (result.numbers, result.unit, result.remarks) == ([1, 3, 4, 5], "line", ())


def test_a_line_of_json_among_text_is_said():
    (told,) = found('plain\nplain too\n{"prompt": "a"}\n').remarks
    assert told == "read as text, but 1 of 3 lines are JSON: they are taken as text, too"


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (gzip.compress(LINES.encode(), mtime=0), "x.jsonl.gz", "it is compressed with gzip: unpack it first"),
        (b"PK\x03\x04rest", "x.xlsx", "it is a ZIP archive, as spreadsheets"),
        (bytes(range(256)) * 4, "x.bin", "it is binary, or UTF-16 without a byte order mark"),
        ("\u6771\u4eac\n\u6771\u4eac".encode("utf-16-le"), "x.txt", "it is binary, or UTF-16 without"),
        (b"\xff\xfea", "x.txt", "it begins like UTF-16-LE, but byte 0 does not fit"),
        ("caf\u00e9\nna\u00efve\n".encode("cp1252"), "x.txt", "no line is UTF-8"),
        ("prompt\ncaf\u00e9\n".encode("cp1252"), "x.csv", "line 2 is not UTF-8 (byte 0xe9): save the table as CSV in UTF-8"),
        ("<?xml version='1.0'?>", "x", "XML or HTML is not read"),
        ("prompt: a", "x.yaml", "YAML is not read"),
        ("{", "x.json", "it is not JSON: "),
        ("text", "x.json", "it is not JSON: it begins with neither [ nor {"),
        ("text", "x.parquet", "it is no Parquet file, whatever its name says"),
        (b"PAR1 PAR1", "x.parquet", "it is a damaged Parquet file"),
        ("a,b\n1,2\n", "x.csv", "none of its columns is known as the prompt; it has a, b"),
        ("prompt,prompt\n1,2\n", "x.csv", "each column needs a name of its own; prompt came twice"),
        ('prompt\n"a', "x.csv", "it is not a table: line 2 cannot be read"),
        ("prompt,target\n", "x.csv", "there are no rows in it"),
        ('{"a": [{"prompt": "x"}], "b": [{"prompt": "y"}]}', "x.json", "it has several lists of rows, a, b"),
        ("[]", "x.json", "there are no rows in it"),
        (" \n", "x.txt", "there are no rows in it"),
    ],
)
def test_what_is_not_read_is_refused_by_name(content, name, said):
    with pytest.raises(OptionError) as caught:
        found(content, name)
    assert said in str(caught.value)


def test_a_table_keeps_line_breaks_and_names_wrong_rows_by_their_line():
    result = found('prompt,target\n"two\nlines",a\nshort\n\nlast,b,\nmore,c,d\n', "x.csv")
    assert [row.prompt for row in result.rows] == ["two\nlines", "", "last", ""]
    assert result.numbers == [2, 4, 6, 7]
    assert [row.error for row in result.rows if row.error] == [
        "line 4 has 1 cells; the header has 2",
        "line 7 has 3 cells; the header has 2",
    ]


@pytest.mark.parametrize(
    ("row", "prompt", "target", "name"),
    [
        ({"messages": [USER, ASSISTANT]}, [USER], "Red", "OpenAI fine-tuning rows"),
        ({"messages": [USER]}, [USER], None, "rows of messages"),
        ({"custom_id": "q", "method": "POST", "body": {"messages": [USER]}}, [USER], None, "OpenAI batch requests"),
        ({"conversations": [{"from": "human", "value": "Name one colour."}, {"from": "gpt", "value": "Red"}]}, [USER], "Red", "ShareGPT"),
        ({"instruction": "Name one.", "input": "colours", "output": "Red"}, "Name one.\n\ncolours", "Red", "Alpaca rows"),
        ({"instruction": "Name one.", "input": "", "output": "Red"}, "Name one.", "Red", "Alpaca rows"),
        (
            {"context": "Rome lies.", "question": "Where?", "answers": {"text": ["here", "there"], "answer_start": [0, 1]}},
            "Rome lies.\n\nQuestion: Where?\nAnswer:",
            "here",
            "SQuAD rows",
        ),
        ({"context": "Rome.", "question": "Who?", "answers": {"text": []}}, "Rome.\n\nQuestion: Who?\nAnswer:", None, "SQuAD rows"),
        ({"question": "Which?", "answer": "Mars"}, "Question: Which?\nAnswer:", "Mars", "question and answer rows"),
        ({"question": "Which?", "choices": ["a", "b"], "answer": 1}, "Question: Which?\nAnswer:", "b", "question and answer"),
        (
            {"question": "W?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            "Question: W?\nAnswer:",
            "y",
            "question",
        ),
        ({"text": "Oslo is"}, "Oslo is", None, "rows of text"),
        ({"prompt": "Oslo is in", "completion": " Norway"}, "Oslo is in", " Norway", "prompt and completion"),
    ],
)
def test_foreign_rows_are_recognised_and_said(row, prompt, target, name):
    found_row, told = one(row)
    assert (found_row.prompt, found_row.target, found_row.error) == (prompt, target, "")
    assert f"read as {name}" in told


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"a": 1}, 'line 1: wanted an object with a "prompt" that is text, ids or messages, or fields that are known; it has a'),
        ({"prompt": 7}, 'line 1: wanted a "prompt" that is text, ids or messages; got 7'),
        ({"prompt": None}, 'line 1: its "prompt" is empty'),
        ({"prompt": "a", "target": 1.50}, '"target" must be text, or token ids as a list; got 1.5: write it as text, "1.5"'),
        ({"prompt": "a", "target": True}, '"target" must be text'),
        ({"messages": [ASSISTANT]}, "its only message is the assistant's"),
        ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{}]}]}, "last message has no text to explain"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "a turn is from 'martian'; known are human"),
        ({"custom_id": "q", "response": {"body": {}}}, "it is an answer of OpenAI's batches and holds no prompt"),
        ({"question": "W?", "choices": ["a"], "answer": 4}, "its answer '4' is none of its 1 choices"),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row, said):
    assert said in one(row)[0].error


def test_numbers_are_text_and_ids_are_said_as_ids():
    result = found('{"prompt": "2+2=", "target": 4}\n{"prompt": {"ids": [5, 6]}, "target": [7, 8]}\n', "x.jsonl")
    assert [(row.prompt, row.target, row.target_ids) for row in result.rows] == [("2+2=", "4", ()), ([5, 6], None, (7, 8))]
    assert result.remarks == ('1 targets are numbers and are read as text: 4 as "4". Token ids are a list: [4]',)


def log(doc, target, choices, contexts=("Q:",), **more):
    arguments = {f"gen_args_{n}": {"arg_0": contexts[n % len(contexts)], "arg_1": choice} for n, choice in enumerate(choices)}
    return {"doc_id": doc, "doc": {}, "target": target, "arguments": arguments, **more}


@pytest.mark.parametrize(
    ("row", "prompt", "target"),
    [
        (log(0, "1", [" Venus", " Mars"]), "Q:", " Mars"),
        (log(0, "Venus", [" Venus", " Mars"]), "Q:", " Venus"),
        (log(0, "1", [" it fell"] * 2, ("Ann:", "Bob:")), "Bob:", " it fell"),
        (log(0, "1", [" 1", " 0"], filtered_resps=[["-1.0", "False"], ["-3.0", "False"]], acc=1.0), "Q:", " 1"),
        (log(0, "1", [" 1", " 0"], filtered_resps=[["-1.0", "False"], ["-3.0", "False"]], acc=0.0), "Q:", " 0"),
        (log(0, "42", [{"until": ["\n"]}]), "Q:", "42"),
        ({"doc_id": 3, "doc": {}, "target": " x", "arguments": [["Q:", " x"]]}, "Q:", " x"),
    ],
)
def test_a_sample_log_gives_the_prompt_and_the_right_choice(row, prompt, target):
    found_row, told = one(row)
    assert (found_row.id, found_row.prompt, found_row.target, found_row.error) == (str(row["doc_id"]), prompt, target, "")
    assert "read as an lm-evaluation-harness sample log" in told


def test_a_doc_that_comes_again_with_another_filter_is_one_prompt():
    row = log(5, "42", [{"until": ["\n"]}])
    result = found("".join(json.dumps({**row, "filter": name}) + "\n" for name in ("strict", "flexible")), "x.jsonl")
    assert [item.id for item in result.rows] == ["5"]
    assert "1 lines repeat a doc with another filter and are left out" in result.remarks
    assert "none, or more than one, of its choices" in one(log(0, "x", [" a", " b"]))[0].error


def test_fields_name_what_is_foreign(tmp_path):
    row = {"q": "Oslo is in", "meta": {"gold": ["Norway"]}, "key": 9, "kind": "city"}
    found_row, _ = one(row, {"prompt": "q", "target": "meta.gold.0", "id": "key", "group": "kind"})
    assert (found_row.prompt, found_row.target, found_row.id, found_row.group) == ("Oslo is in", "Norway", "9", "city")
    assert found_row.fields == {"meta": {"gold": ["Norway"]}}
    assert one(row, {"prompt": "question"})[0].error == "line 1: it has no question; it has q, meta, key, kind"
    (tmp_path / "rows.csv").write_text("q,gold\nOslo is in,Norway\n")
    (read_row,) = read(str(tmp_path / "rows.csv"), fields="prompt=q,target=gold").rows
    assert (read_row.prompt, read_row.target) == ("Oslo is in", "Norway")
    for fields, said in (("prompt=nothing", "it has no column nothing; it has q, gold"), ("query=q", "fields wants prompt, target, id")):
        with pytest.raises(OptionError, match=said):
            read(str(tmp_path / "rows.csv"), fields=fields)
    with pytest.raises(OptionError, match="fields are for rows with names, and this is text"):
        found("plain text", fields={"prompt": "q"})
    with pytest.raises(OptionError, match="fields are for files of your own"):
        read("known-mini", fields="prompt=q")


def test_a_row_may_have_documents_or_spans_beside_its_prompt():
    """They go with the prompt and are no fields; a field that a layout or --fields uses for the prompt is none of them."""
    documents, spans = [{"title": "A", "text": "b"}], [{"name": "a", "start": 0, "stop": 1}]
    rows = [{"prompt": "p", "documents": documents}, {"question": "q", "answer": "a", "spans": spans}, {"prompt": "p", "documents": None}]
    found = read_file("\n".join(map(json.dumps, rows)).encode(), "a.jsonl")
    first, second, third = found.rows
    assert first.prompt == {"prompt": "p", "documents": documents}
    assert second.prompt["spans"] == spans
    assert third.prompt == "p"
    assert not first.fields
    assert found.texts[0] == "p"
    named = read_file(json.dumps({"documents": "text", "a": 1}).encode() + b"\n", "a.jsonl", {"prompt": "documents"})
    assert named.rows[0].prompt == "text"
