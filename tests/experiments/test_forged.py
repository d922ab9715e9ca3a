"""Files with correct checksums that noiser did not write: each is named as damage, and none becomes a number or a traceback.

Mutants caught: `record_problem` that returns "" (tracebacks in the report, in exports and when a run continues); `RecordIndex.find`
without the kind; `run_problem` or `screening_problem` that returns "". Numbers that no float64 holds: tests/test_storage.py.
"""

import json
import shutil

import pytest

from noiser.cli.report import render
from noiser.errors import NoiserError, RunError
from noiser.experiments.estimate import estimate
from noiser.experiments.export import export
from noiser.experiments.folder import RUN, RecordIndex, RunFolder
from noiser.experiments.merge import merge
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.report.report import report
from noiser.experiments.run import prepare
from noiser.experiments.schema import record_problem, run_problem, screening_problem
from noiser.experiments.trials import RunContents
from noiser.storage import decode, encode, read_created
from tests.experiments.test_runs import Quiet, plan, run
from tests.runs import make_place

WRONG = [None, True, -1, 0.5, 10**300, "x", "", [], {}, [[]], [[1, 2], [1]], [["x"]], [{}], {"x": []}, [None], [[-1, 2]]]
"""Values of every type, for every field."""
DATA = {"methods": ["occlusion"], "metrics": ["soft_ns:masks=2"], "controls": ["random"], "limit": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "done"
    assert run(place, out, **DATA).complete
    return out


@pytest.fixture
def copy(done, tmp_path):
    shutil.copytree(done, tmp_path / "run")
    return tmp_path / "run"


def records_of(folder):
    return list(RecordIndex(RunFolder.open(folder)).records.values())


def rewrite(folder, records):
    """The same run with these records instead of its own."""
    for file in (folder / "records").iterdir():
        file.unlink()
    (folder / "records" / "a.jsonl").write_bytes(b"".join(map(encode, records)))


def read_everything(folder, out):
    """Every reader of a folder. Returns the damaged lines."""
    opened = RunFolder.open(folder)
    render(report(opened, examples=2), "html")
    for what in ("values", "scores"):
        export(opened, what, "csv", out / "table.csv")
    shutil.rmtree(out / "merged", ignore_errors=True)
    merge([folder], out / "merged")
    return RecordIndex(opened).damaged


def forgeries(record):
    """The record with one field wrong, or without it, in every way."""
    for name in record:
        yield {other: value for other, value in record.items() if other != name}
        for value in WRONG:
            if value != record[name] or type(value) is not type(record[name]):
                yield {**record, name: value}


def kinds(folder):
    """One record of each kind."""
    return list({record["kind"]: record for record in records_of(folder)}.values())


def test_the_records_of_a_run_have_the_shape(done):
    assert {record["kind"] for record in kinds(done)} == {"attribution", "value", "sample"}
    assert [problem for record in records_of(done) if (problem := record_problem(record))] == []
    assert RecordIndex(RunFolder.open(done)).damaged == []


def test_a_forged_record_is_named_or_harmless(copy, tmp_path):
    """Each forgery in a file of its own would take hours: those that pass the check are read together, one a field."""
    originals = records_of(copy)
    named, harmless = 0, {}
    for record in kinds(copy):
        for forgery in forgeries(record):
            if record_problem(json.loads(json.dumps(forgery))):
                named += 1
            elif forgery.get("key") == record["key"]:
                harmless.setdefault(str({name for name in record if forgery.get(name) != record[name]}), (record, forgery))
    print(f"{named} forgeries are named, {len(harmless)} kinds of them are harmless")
    assert named > 200
    for record, forgery in harmless.values():
        rewrite(copy, [forgery if other is record or other == record else other for other in originals])
        assert read_everything(copy, tmp_path) == []


@pytest.mark.parametrize(
    "value", [[], "x", float("1e308") * 10, 10**400, {"deep": 1}], ids=["list", "text", "infinity", "large integer", "object"]
)
def test_a_forged_value_is_damage_and_is_computed_again(place, copy, tmp_path, value):
    originals = records_of(copy)
    victim = next(record for record in originals if record["kind"] == "value")
    body = json.dumps({**victim, "value": value}).replace("Infinity", "1e999").encode()
    rewrite(copy, [record for record in originals if record is not victim])
    from tests.test_storage import forged

    with (copy / "records" / "a.jsonl").open("ab") as file:
        file.write(forged(body))
    (damage,) = read_everything(copy, tmp_path)
    assert damage.raw == forged(body)
    status = run(place, copy, **DATA)
    assert status.complete
    assert len(status.damaged) == 1
    assert RecordIndex(RunFolder.open(copy)).records[victim["key"]]["value"] == pytest.approx(victim["value"])
    (kept,) = (copy / "quarantine").iterdir()
    assert kept.read_bytes() == forged(body)


def test_a_record_under_anothers_key_does_not_count_as_that_record(place, copy, tmp_path):
    originals = records_of(copy)
    attribution, value = (next(record for record in originals if record["kind"] == kind) for kind in ("attribution", "value"))
    rewrite(copy, [record for record in originals if record is not attribution] + [{**value, "key": attribution["key"]}])
    assert read_everything(copy, tmp_path) == []
    assert run(place, tmp_path / "other", **DATA).complete
    with pytest.raises(RunError, match="contradicts an earlier one"):
        run(place, copy, **DATA)


def test_a_forged_run_json_is_an_error_that_names_the_file(done, place, tmp_path):
    original = read_created(done / RUN)
    assert run_problem(original) == ""
    tried = 0
    for path in paths(original):
        for value in WRONG:
            forgery = replaced(original, path, value)
            if not run_problem(forgery):
                continue
            tried += 1
            folder = tmp_path / f"{tried % 2}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            (folder / RUN).write_bytes(encode(forgery))
            with pytest.raises(RunError, match="is damaged"):
                RunFolder.open(folder)
    prepared = prepare(plan(place, **DATA), ExecutionConfig())
    for forgery in ({}, {"identity": 3, "shown": []}, {"identity": {}, "shown": {}}):
        (folder / RUN).write_bytes(encode(forgery))
        with pytest.raises(RunError, match="holds another run"):
            RunFolder.start(folder, prepared.fingerprint, {})
        with pytest.raises(RunError, match="holds another run"):
            estimate(prepared, folder, ExecutionConfig(), Quiet())
    print(f"{tried} forged run.json are named")
    assert tried > 100


def test_a_forged_screening_is_an_error_that_names_the_file(copy):
    (file,) = (copy / "screened").iterdir()
    original = read_created(file)
    assert screening_problem(original) == ""
    for path in [("rows",), *(("rows", 0, name) for name in original["rows"][0])]:
        for value in WRONG:
            forgery = replaced(original, path, value)
            file.unlink()
            file.write_bytes(encode(forgery))
            if screening_problem(forgery):
                with pytest.raises(RunError, match=r"is damaged: its row 1 has the wrong type|is damaged: it lists no rows"):
                    RunContents(RunFolder.open(copy))
            else:
                RunContents(RunFolder.open(copy))
    twice = {**original, "rows": [original["rows"][0]] * 2}
    assert screening_problem(twice) == "two of its rows have one id"


def paths(value, path=()):
    """The path of every value inside."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, name)
        yield from paths(inner, (*path, name))


def replaced(value, path, new):
    if not path:
        return new
    inner = replaced(value[path[0]], path[1:], new)
    return {**value, path[0]: inner} if isinstance(value, dict) else [*value[: path[0]], inner, *value[path[0] + 1 :]]


def test_what_a_method_notes_is_kept_so_that_it_can_be_read(place, tmp_path, monkeypatch):
    """Deep notes and large integers are kept as text. Mutant: `_plain_notes` without `strict_json` (the record is damage, for ever)."""
    import numpy as np

    from noiser.methods.base import MethodOutput
    from noiser.registry import METHODS, Method

    deep: list = []
    for _ in range(300):
        deep = [deep]

    def method(lm, clean, objective):
        return MethodOutput(np.arange(float(len(clean.prompt))), {"deep": deep, "large": 10**400, "nan": float("nan"), "plain": [1]})

    monkeypatch.setitem(METHODS, "noter", Method(name="noter", family="test", source="here", function=method))
    assert run(place, tmp_path / "run", methods=["noter"], metrics=[], controls=[], limit=1).statuses == {"ok": 1}
    (record,) = [each for each in records_of(tmp_path / "run") if each["kind"] == "attribution"]
    assert record["notes"]["plain"] == [1]
    assert {name: type(record["notes"][name]) for name in ("deep", "large", "nan")} == dict.fromkeys(("deep", "large", "nan"), str)
    assert RecordIndex(RunFolder.open(tmp_path / "run")).damaged == []


def test_every_line_of_a_run_decodes(done):
    (file,) = (done / "records").iterdir()
    for line in file.read_bytes().splitlines():
        assert isinstance(decode(line), dict)


def test_errors_of_readers_are_noisers_own(copy, tmp_path):
    (copy / RUN).write_bytes(b"not a record\n")
    for reader in (RunFolder.open, lambda folder: merge([folder], tmp_path / "m")):
        with pytest.raises(NoiserError, match="is damaged: it is not a record"):
            reader(copy)
