"""The report: ours beside the paper's, the same bytes for the same records, and nothing in it is anybody's markup.

Mutants caught: the paper's column of another model; a suspect cell unmarked; an average of the wrong six; a bound shown beside
k_min's number; a sample count that leaves out missing trials; a name that reaches HTML, Markdown or LaTeX as it is; a date in a
plot; a formula in a CSV.
"""

import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from noiser.cli.report import export_records, merge_folders, render, save_figures
from noiser.errors import NoiserError, OptionError, RunError
from noiser.experiments.export import export
from noiser.experiments.folder import RecordIndex, RunFolder
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.report import paper
from noiser.experiments.report.longra import PARTS, by_type
from noiser.experiments.report.report import costs, report
from noiser.experiments.trials import RunContents
from noiser.views.documents import Document, Figure, Section, Table, to_html, to_latex, to_markdown
from tests.experiments.test_runs import run
from tests.runs import make_place

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "a|b`c*d_e",
    "\\input{x}$%&#^~{}",
    "</td></table>",
    "\u202e\x1b[31m",
    "![a](b)",
]
METRICS = [f"soft_{part}:masks=2+protocol={protocol}" for protocol in ("matched", "official") for part in ("ns", "nc")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Two bounds of Noiser on prompts in the formats of Known and LongRA, whose targets are whatever the model says."""
    place = make_place(tmp_path_factory.mktemp("place"))
    known = [{"known_id": n, "prompt": f"a{n} b", "subject": "a", "attribute": "x", "relation_id": f"P{n % 3}"} for n in range(6)]
    longra = [
        {"id": n, "prompt": f"In Peru{n} (Oh no). The capital,", "target": "x", "relative": f"Peru{n}", "type": "capital-world"}
        for n in range(4)
    ]
    for name, rows in (("known", known), ("longra", longra)):
        (place / f"{name}.json").write_text(json.dumps(rows))
    data = [{"name": name, "path": str(place / f"{name}.json"), "match": "none"} for name in ("known", "longra")]
    out = tmp_path_factory.mktemp("runs") / "run"
    methods = [f"noiser:steps=9+samples=2+bound={bound}" for bound in ("k_min", "l2")] + ["occlusion"]
    found = run(place, out, data=data, methods=methods, metrics=METRICS)
    assert found.statuses == {"ok": found.planned}
    return out


def tables(out, **how):
    return {table.title: table for section in report(RunFolder.open(out), **how).sections for table in section.tables}


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes_in_whatever_files_they_lie(done, tmp_path):
    """One file, and its lines in reverse in three files, give the same report, plots included."""
    other = tmp_path / "run"
    shutil.copytree(done, other)
    (file,) = (other / "records").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)[::-1]
    file.unlink()
    for part in range(3):
        (other / "records" / f"z{part}.jsonl").write_bytes(b"".join(lines[part::3]))
    for form in ("md", "html", "latex"):
        assert render(report(RunFolder.open(done)), form) == render(report(RunFolder.open(other)), form)
    for folder, out in (("a", done), ("b", other)):
        save_figures(report(RunFolder.open(out)), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {name.split(".")[1] for name in names} == {"svg", "png"}
    assert len(names) == 2 * len(report(RunFolder.open(done)).figures)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_every_table_that_the_records_allow_is_there_with_its_counts(done):
    found = tables(done)
    assert {
        "Table 1: faithfulness on known:match=none, protocol matched", "Table 1: faithfulness on longra:match=none, protocol official",
        "Table 5: Soft-NS on known:match=none, protocol official", "Table 2: Noiser's bounds on known:match=none, protocol matched",
        "Table 7: prompts that the model answers", "Shares of the positive scores: model on longra:match=none, capital-world",
        "Cost of a sample: model on known:match=none",
    } <= found.keys()  # fmt: skip
    first = found["Table 1: faithfulness on known:match=none, protocol official"]
    assert first.notes[0] == "model: 6 samples that every row has, 3 clusters; higher is better. Trials: 60 = 60 ok."
    rows = {row[0]: row for row in first.rows}
    assert first.columns == ("method", "model log-ratio to random [95 %]", "paper, average")
    assert (rows["occlusion"][2], rows["noiser:steps=9+samples=2+bound=k_min"][2]) == ("+0.46", "+1.81")
    assert rows["noiser:steps=9+samples=2+bound=l2"][2] == "+1.72", "table 2's number for this bound"
    bounds = {row[0]: row[3] for row in found["Table 2: Noiser's bounds on known:match=none, protocol matched"].rows}
    assert bounds == {"k_min": "+1.81", "l2": "+1.72"}
    longra = {row[0]: row for row in found["Table 1: faithfulness on longra:match=none, protocol official"].rows}
    assert longra["occlusion"][2] == f"+3.01{paper.SUSPECT}"
    assert not any("Cost" in title for title in tables(done, timings=False))
    assert set(tables(done, only=("prompts",))) == {"Models", "Data", "Table 7: prompts that the model answers"}


def test_what_is_missing_is_counted_and_what_contradicts_is_refused(done, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(done, other)
    (file,) = (other / "records").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-30]))
    overview = report(RunFolder.open(other)).sections[0].paragraphs
    assert "the run is not complete" in overview[0]
    assert "28 missing" in overview[1], "two of the last 30 records only say what their samples are"
    values = [line for line in lines if b'"kind":"value"' in line]
    from noiser.storage import decode, encode

    record = decode(values[0][:-1])
    assert isinstance(record, dict)
    (other / "records" / "z.jsonl").write_bytes(encode(record | {"value": record["value"] + 1}))
    with pytest.raises(RunError, match="contradicts an earlier one"):
        report(RunFolder.open(other))


def test_the_shares_of_the_report_are_those_of_the_scores(done):
    """Against sums over characters, by hand, for the control that has the same score everywhere."""
    folder = RunFolder.open(done)
    cell = next(each for each in RunContents(folder).cells if each.data == "longra:match=none")
    found = by_type(cell, RecordIndex(folder))
    assert set(found) == {"capital-world", "all"}
    text = "In Peru0 (Oh no). The capital,"
    (own,) = {each for each in found["all"] if each.startswith("occl")}
    assert sum(number.value for number in found["all"][own].parts.values()) == pytest.approx(1.0)
    shares = found["all"]["random"].parts
    assert found["all"]["random"].samples == 4
    assert all(0 < shares[each].value < 1 and shares[each].low is None for each in PARTS), "too few clusters"
    assert len(text) == 30


@pytest.mark.parametrize(
    ("model", "column"),
    [
        ("Qwen/Qwen2-0.5B", "Qwen2-0.5B"), ("meta-llama/Llama-3.2-1B", "Llama3.2-1B"), ("meta-llama/Meta-Llama-3-8B", "Llama3-8B"),
        ("google/gemma-2-9b", "gemma-2-9B"), ("Qwen/Qwen2-1.5B@main@bfloat16", "Qwen2-1.5B"), ("Qwen/Qwen2-0.5B-Instruct", "average"),
        ("smollm2-135m", "average"), ("google/gemma-2-2b-it", "average"),
    ],
)  # fmt: skip
def test_a_model_stands_beside_its_own_column(model, column):
    assert paper.column(model) == column


def test_the_papers_cells_are_as_printed_and_suspect_ones_are_marked():
    assert paper.faithfulness("known", "noiser", "Qwen2-0.5B") == "+2.19"
    assert paper.faithfulness("known", "lime", "Llama3.2-1B") == "+0.51\u2020"
    assert paper.faithfulness("known", "occlusion", "Llama3.2-1B") == "+0.54"
    assert paper.faithfulness("longra", "occlusion", "gemma-2-9B") == "+3.44\u2020"
    assert paper.faithfulness("longra", "occlusion", "Llama3-8B") == "+4.22"
    assert paper.faithfulness("jsonl", "occlusion", "average") == ""
    assert paper.count("known", "gemma-2-2B") == 830
    parts = [paper.tables()["table5_soft_ns_nc"]["known"]["occlusion"][model]["soft_ns"] for model in paper.tables()["models"]]
    assert paper.soft("known", "occlusion", "soft_ns", "average") == f"{sum(parts) / 6:+.2f}"
    assert paper.soft("longra", "occlusion", "soft_ns", "average").endswith(paper.SUSPECT), "two of its six are suspect"


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))


def document(word):
    table = Table(word, (word, "n"), ((word, word),), (word,))
    return Document(word, (Section(word, (word,), (table,), (Figure("plot", word, lambda form: b"<svg/>"),)),))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_in_a_report_is_anybodys_markup(hostile):
    tags = []
    for word in (hostile, "harmless"):
        parser = Tags()
        parser.feed(to_html(document(word)))
        tags.append(parser.found)
    assert tags[0] == tags[1]
    assert "\x1b" not in to_html(document(hostile)) + to_markdown(document(hostile), "f") + to_latex(document(hostile), "f")
    plain = to_markdown(document(hostile), "f")
    assert [line.count("|") - line.count("\\|") for line in plain.splitlines() if line.startswith("| ")] == [3, 3]
    assert "<script" not in plain.replace("\\<", "")
    typeset = to_latex(document(hostile), "f")
    assert r"\input{x}" not in typeset
    assert to_latex(document(hostile), "f").count(r"\begin{tabular}") == 1


def test_a_page_needs_no_network(done):
    html = render(report(RunFolder.open(done)), "html")
    assert "default-src 'none'" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "data:image/svg+xml;base64," in html


def test_a_page_shows_the_first_samples_as_they_were_recorded(done):
    """Scores, tokens and targets equal the records'; the metrics are this sample's own. Mutants: another sample's record; the
    first method's scores for all."""
    folder = RunFolder.open(done)
    html = render(report(folder, examples=2), "html")
    held = re.findall(r'<script type="application/json" class="noiser-data">(.*?)</script>', html, re.DOTALL)
    work, found = RunContents(folder), RecordIndex(folder)
    assert len(held) == len(work.cells) == 2
    for cell, text in zip(work.cells, held, strict=True):
        views = json.loads(text)
        assert len(views) == 2
        for sample, view in zip(cell.samples, views, strict=False):
            assert view["prompt"]["tokens"] == found.records[sample.key]["tokens"]
            recorded = {trial.method: found.records[trial.key] for trial in sample.trials if trial.kind == "attribution"}
            assert {row["method"]: row["scores"] for row in view["rows"]} == {name: own["scores"] for name, own in recorded.items()}
            assert [row.get("stderr") for row in view["rows"]] == [own.get("stderr") for own in recorded.values()]
            assert [row["notes"].get("k") for row in view["rows"]] == [own["notes"].get("k") for own in recorded.values()]
            assert view["targets"][0]["token_ids"] == recorded["occlusion"]["targets"][0]["token_ids"]
            values = {(trial.method, trial.metric): found.records[trial.key]["value"] for trial in sample.trials if trial.kind == "value"}
            (table,) = view["evaluation"]["tables"]
            for method, *cells in table["rows"]:
                assert cells == [f"{values[method, metric]:.4g}" for metric in table["columns"][1:]]
    assert "script-src 'sha256-" in html


def test_samples_stay_away_where_they_are_not_asked_for_or_a_clock_has_a_say(done):
    for kept in ({}, {"examples": 0}, {"examples": 3, "timings": False}):
        html = render(report(RunFolder.open(done), **kept), "html")
        assert "noiser-data" not in html
        assert "<script" not in html


def test_costs_are_medians_and_means_of_what_was_recorded(done):
    folder = RunFolder.open(done)
    cell = RunContents(folder).cells[0]
    found = RecordIndex(folder)
    trials = [trial.key for sample in cell.samples for trial in sample.trials if (trial.kind, trial.method) == ("attribution", "occlusion")]
    own = [found.records[each]["cost"] for each in trials]
    spent = costs(cell, found)["occlusion"]
    assert spent["forward_tokens"] == sum(each["forward_tokens"] for each in own) / 6
    assert sorted(each["seconds"] for each in own)[2] <= spent["seconds"] <= sorted(each["seconds"] for each in own)[3]


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_export_has_a_row_for_every_trial_and_token(done, tmp_path, form):
    folder, path = RunFolder.open(done), tmp_path / f"a.{form}"
    trials = 10 * 5 * 4

    def rows():
        if form == "csv":
            with path.open(newline="") as file:
                return [
                    {**row, "value": float(row.get("value") or 0), "score": float(row.get("score") or 0)} for row in csv.DictReader(file)
                ]
        if form == "jsonl":
            return [json.loads(line) for line in path.read_text().splitlines()]
        parquet = pytest.importorskip("pyarrow.parquet")
        return parquet.read_table(path).to_pylist()

    assert export(folder, "values", form, path) == trials == len(rows())
    expected = {(each["sample"], each["data"]): each["value"] for each in RecordIndex(folder).records.values()
                if each["method"] == "occlusion" and each.get("metric") == METRICS[0]}  # fmt: skip
    found = {(row["sample"], row["data"]): row["value"] for row in rows() if (row["method"], row["metric"]) == ("occlusion", METRICS[0])}
    assert found == expected
    tokens = export(folder, "scores", form, path)
    scores = [row["score"] for row in rows() if (row["data"], row["sample"], row["method"]) == ("known:match=none", "0", "occlusion")]
    named = {"data": "known:match=none", "sample": "0", "method": "occlusion", "kind": "attribution"}
    (own,) = [each["scores"][0] for each in RecordIndex(folder).records.values() if named.items() <= each.items()]
    assert scores == pytest.approx(own, abs=0)
    assert tokens == len(rows())
    assert {bool(row["stderr"]) for row in rows() if row["method"] == "occlusion"} == {False}
    drawn = [
        float(row["stderr"]) for row in rows() if row["method"].endswith("l2") and (row["data"], row["sample"]) == ("known:match=none", "0")
    ]
    named = named | {"method": "noiser:steps=9+samples=2+bound=l2"}
    (own,) = [each["stderr"][0] for each in RecordIndex(folder).records.values() if named.items() <= each.items()]
    assert drawn == pytest.approx(own, abs=0)


def test_a_formula_in_a_csv_is_a_text():
    from noiser.experiments.export import _csv

    hostile = {"model": "=HYPERLINK(1)", "data": " +1", "sample": "-x", "group": "@a", "method": "a-b", "value": -1.5}
    (row,) = csv.DictReader(io.StringIO(_csv([hostile], "values").decode(), newline=""))
    assert [row[name] for name in ("model", "data", "sample", "group", "method", "value")] == [
        "'=HYPERLINK(1)", "' +1", "'-x", "'@a", "a-b", "-1.5"
    ]  # fmt: skip


def test_tables_and_exports_count_rows_that_were_not_kept(tmp_path):
    place = make_place(tmp_path)
    (place / "bad.jsonl").write_text('{"prompt": "one two", "id": "a"}\n{"prompt": "", "id": "b"}\n{"prompt": "red", "id": "\\ud800"}\n')
    run(place, tmp_path / "run", data=[str(place / "bad.jsonl")], methods=["occlusion"], metrics=METRICS[:2], controls=["random"])
    first = tables(tmp_path / "run")["Table 1: faithfulness on bad, protocol matched"]
    assert "Trials: 12 = 4 error(PromptError) + 8 ok." in first.notes[0]
    for form in ("csv", "jsonl", "parquet"):
        assert export(RunFolder.open(tmp_path / "run"), "values", form, tmp_path / f"a.{form}") == 12


def test_a_model_without_values_takes_nothing_from_the_others(tmp_path):
    """The first of two models has no records yet: the second's log-ratios and order stay."""
    place = make_place(tmp_path)
    shutil.copytree(place / "model", place / "other")
    models = [str(place / name) for name in ("model", "other")]
    out = tmp_path / "run"
    run(place, out, models=models, data=[str(place / "few.jsonl")], methods=["occlusion"], metrics=METRICS[:2], limit=3)
    (file,) = (out / "records").glob("*.jsonl")
    file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(keepends=True) if b'"model":"model"' not in line))
    found = tables(out)["Table 5: Soft-NC on few, protocol matched"]
    assert found.columns[3] == "other log-ratio to random [95 %]"
    assert all(row[1] == "\u2013" for row in found.rows)
    assert next(row for row in found.rows if row[0] == "occlusion")[3][0] in "+-"


def test_wrong_words_are_clear_errors(done, tmp_path):
    with pytest.raises(OptionError, match="--to must be one of parquet, csv, jsonl"):
        export_records(done, "values", "xlsx", None)
    with pytest.raises(OptionError, match="--what must be one of values, scores"):
        export_records(done, "all", "csv", None)
    with pytest.raises(NoiserError, match="cannot write"):
        export_records(done, "values", "csv", tmp_path / "no" / "where.csv")
    with pytest.raises(RunError, match="holds no run"):
        merge_folders([tmp_path], tmp_path / "b")
    assert ExecutionConfig().fail_on_error == 0.01
