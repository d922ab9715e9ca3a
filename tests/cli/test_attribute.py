"""`noiser attribute`: strict JSON of the documented shape, options refused before weights are read, a record for every line.

Mutants caught: an import of torch at the top of a module of `noiser.cli`; a key of the JSON renamed, or a note left
out; `load` called before `AttributeArgs` or `Output.checked`; the exit codes 1 and 2 exchanged; `errors="return"` left out;
line numbers counted from 0 or without blank lines; a bad line that stops the rest; `visible` not called on a token, on the
prompt of an error, or on the error itself; `normalized` written over `scores`; the seed not passed on; `id:` not read; the
file of `--out` emptied before there is a result; `json.dumps` with NaN or more than one line.
"""

import io
import json
import math
import os
import re
import resource
import subprocess
import sys

import pytest

import noiser
from noiser import cli
from noiser.registry import RECOMMENDED
from tests.conftest import byte_tokenizer, tiny

QUICK = ("--set", "samples=2")
CONTROL = "\x1b[31mred\x07\x9b2J \u202ebidi\u200b"
HEAVY = ("torch", "transformers", "matplotlib", "starlette", "numpy", "scipy")
IMPORTED = f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
EVERY_HELP = """
from typer.testing import CliRunner
from noiser import cli
names = [command.__name__ for commands in cli.COMMANDS.values() for command in commands]
for words in [[], *([name] for name in names), ["data"], ["data", "list"], ["data", "stats"]]:
    ended = CliRunner().invoke(cli.app, [*words, "--help"])
    assert ended.exit_code == 0 and "Usage" in ended.stdout, words
"""


class Ended:
    """What a command left behind."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def record(self):
        """The one JSON object on standard output; an assertion where there is anything else."""
        assert self.code == 0, self.err
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        return strict(self.out)

    @property
    def records(self):
        """A JSON object a line."""
        return [strict(line) for line in self.out.split("\n")[:-1]]


def strict(text):
    """JSON without NaN and infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def loads(monkeypatch, tokenizer):
    """The calls of `load`, which gives a tiny model."""
    calls = []

    def load(model, **options):
        calls.append((model, options))
        return noiser.LanguageModel(tiny("llama"), tokenizer, name="tiny\x1b[1m", revision="r1", token_budget=options["token_budget"])

    monkeypatch.setattr("noiser.lm.load.load", load)
    return calls


@pytest.fixture
def run(monkeypatch, capfd, loads):
    """`noiser attribute` in this process."""

    def run(*arguments, stdin=b"", quick=True):
        monkeypatch.setattr(sys, "argv", ["noiser", "attribute", *(QUICK if quick else ()), *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capfd.readouterr()
        return Ended(ended.value.code or 0, shown.out, shown.err)

    return run


def python(code, *arguments, **environment):
    """A Python process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *(("-c", code) if code else ()), *arguments], capture_output=True, text=True, env=env, encoding="utf-8"
    )


@pytest.mark.parametrize(
    "code",
    [
        f"import sys, noiser, noiser.cli; {IMPORTED}",
        f"import sys{EVERY_HELP}{IMPORTED}",
        *(
            f"import sys, atexit, noiser.cli; atexit.register(lambda: {IMPORTED}); sys.argv = {['noiser', *words]!r}; noiser.cli.main()"
            for words in (["--version"], ["attribute", "--no-such-option"])
        ),
    ],
    ids=["import", "help of every command", "version", "wrong option"],
)
def test_nothing_heavy_is_imported_to_say_what_there_is(code):
    ended = python(code)
    assert ended.stdout.splitlines()[-1:] == [""], ended.stdout + ended.stderr


def test_help_takes_half_a_second():
    """Processor time, which does not depend on what else runs on the machine."""

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ended = python("", "-m", "noiser.cli", "--help")
        assert "attribute" in ended.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_json_has_the_documented_shape(run):
    record = run("abc", "--format", "json", "--seed", 4).record
    begin = ["schema", "model", "revision", "method", "options", "seed", "prompt", "target", "targets", "unit", "scores"]
    assert list(record) == [*begin, "stderr", "dof", "notes", "cost", "card", "health"]
    too_few = run("abc", "--method", "lime", "--format", "json").record  # two draws
    assert list(too_few) == [*begin, "notes", "cost", "card", "health"]
    assert (record["schema"], record["revision"], record["method"], record["seed"]) == (1, "r1", "noiser", 4)
    assert record["options"]["samples"] == 2
    assert "seed" not in record["options"]
    assert list(record["prompt"]) == ["text", "input_ids", "tokens", "given", "offsets"]
    assert (record["prompt"]["given"], record["unit"]) == (3, "token")
    assert record["prompt"]["text"] == "abc"
    assert record["prompt"]["tokens"] == ["a", "b", "c"]
    assert len(record["prompt"]["input_ids"]) == 3
    assert list(record["target"]) == ["token_ids", "tokens", "prob", "rank", "quantity", "value", "foil", "context"]
    assert record["targets"] == [record["target"]]
    assert (record["target"]["quantity"], record["target"]["foil"], record["target"]["context"]) == ("prob", None, 3)
    assert record["target"]["value"] == pytest.approx(record["target"]["prob"])
    assert (len(record["target"]["token_ids"]), len(record["target"]["tokens"]), record["target"]["rank"]) == (1, 1, 0)
    assert 0 < record["target"]["prob"] < 1
    assert [len(row) for row in record["scores"]] == [3]
    assert all(isinstance(score, float) and math.isfinite(score) for score in record["scores"][0])
    assert 0 <= record["notes"]["k"] <= 1
    assert record["notes"]["k_status"] in ("found", "not_reached", "at_floor")
    assert list(record["cost"]) == ["seconds", "forward_tokens", "backward_tokens", "peak_bytes"]
    assert all(value > 0 for value in record["cost"].values())
    assert "noiser_version" not in record


def test_json_is_what_the_library_gives(run, tokenizer):
    record = run("abc", "--format", "json").record
    expected = noiser.attribute(noiser.LanguageModel(tiny("llama"), tokenizer), "abc", samples=2)
    assert record["scores"] == expected.scores.tolist()
    assert record["target"]["prob"] == expected.target.prob


def test_json_of_odd_text_is_one_line_and_gives_it_back(run):
    text = f'{CONTROL}\n\u2028\x00"\\\U0001f468'
    assert run(text, "--format", "json").record["prompt"]["text"] == text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--set", "sample=3"), "no option 'sample'; it has samples"),
        (("--set", "samples=many"), "samples wants int, or must be one of auto; got 'many'"),
        (("--set", "samples=--5"), "samples wants int, or must be one of auto; got '--5'"),
        (("--set", "samples=0"), "samples must be from 1 to"),
        (("--set", "samples"), "--set wants NAME=VALUE"),
        (("--set", "=3"), "--set wants NAME=VALUE"),
        (("--set", "search=slow"), "search must be one of auto, fast, exact; got 'slow'"),
        (("--set", "variant=official", "--set", "bound=l1"), "variant=official"),
        (("--method", "no-such"), "no method 'no-such'; there are"),
        (("--normalize", "l1"), "--normalize must be one of none, clip_l1"),
        (("--format", "csv"), "--format must be one of heatmap, json, jsonl"),
        (("--target", "id:x"), "--target id:N wants a token id"),
        (("--file", "/no/such/file"), "not both"),
        (("--out", "/no/such/folder/x"), "its folder does not exist"),
        (("--out", "/tmp"), "it is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_option_is_refused_before_any_weights_are_read(run, loads, arguments, says):
    ended = run("abc", *arguments, quick=False)
    assert ended.code == 2
    assert ended.err.startswith("Error: ")
    assert says in ended.err
    assert ended.err.count("\n") == 1
    assert not ended.out
    assert not loads


@pytest.mark.parametrize("arguments", [(), ("--file", "/no/such/file")])
def test_a_missing_prompt_or_file_is_refused_before_any_weights_are_read(run, loads, arguments):
    assert run(*arguments).code == 2
    assert not loads


def test_format_json_is_refused_with_a_file(run, loads, tmp_path):
    (tmp_path / "prompts").write_text("abc\n")
    ended = run("--file", tmp_path / "prompts", "--format", "json")
    assert ended.code == 2
    assert "use jsonl" in ended.err
    assert not loads


def test_a_bad_prompt_exits_with_1_and_says_why_on_standard_error_only(run):
    ended = run("x" * 65, "--format", "json")
    assert ended.code == 1
    assert not ended.out
    assert ended.err.startswith("Error: the prompt has 65 tokens and the model takes 64")
    assert "Traceback" not in ended.err


def test_a_target_of_several_tokens_is_explained_as_a_whole(run):
    record = run("abc", "--target", "xy", "--format", "json").record
    assert record["target"]["tokens"] == ["x", "y"]
    assert [len(row) for row in record["scores"]] == [3]


@pytest.mark.parametrize("target", ["x" * 64, "", "id:300", "id:999999999999999"])
def test_a_bad_target_exits_with_1(run, target):
    ended = run("abc", "--target", target)
    assert ended.code == 1
    assert ended.err.startswith("Error: ")


LINES = b"abc\n\n  \t\nbad \xff byte\r\n" + b"x" * 65 + b"\nlast\r\n"


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_every_line_becomes_a_record_with_its_number(run, tmp_path, way):
    (tmp_path / "prompts").write_bytes(LINES)
    ended = run("--file", tmp_path / "prompts") if way == "file" else run("--file", "-", stdin=LINES)
    assert ended.code == 1
    good, not_text, too_long, last = ended.records
    assert [record["line"] for record in ended.records] == [1, 4, 5, 6]
    assert [record["schema"] for record in ended.records] == [1, 1, 1, 1]
    assert good["prompt"]["text"] == "abc"
    assert last["prompt"]["text"] == "last"
    assert len(last["scores"][0]) == 4
    assert not_text["error"] == {"class": "PromptError", "message": "line 4: the line is not UTF-8: byte 0xff at 4"}
    assert too_long["prompt"]["text"] == "x" * 65
    assert too_long["error"]["class"] == "PromptError"
    assert not any("scores" in record for record in (not_text, too_long))
    name = "prompts" if way == "file" else "standard input"
    assert ended.err.splitlines() == [
        f"{name}: 1 of 4 rows cannot be read",
        "  line 4: the line is not UTF-8: byte 0xff at 4",
        "4 prompts: 2 explained, 2 failed",
    ]


def test_a_file_without_faults_exits_with_0(run, tmp_path):
    (tmp_path / "prompts").write_bytes(b"\xef\xbb\xbfabc\nde\x0bf\x85".replace(b"\x85", b"\xc2\x85") + b"g")
    ended = run("--file", tmp_path / "prompts")
    assert ended.code == 0
    assert [record["prompt"]["text"] for record in ended.records] == ["abc", "de\x0bf\x85g"], "only a newline ends a line"
    assert ended.err.strip() == "2 prompts: 2 explained, 0 failed"


def test_the_records_of_a_file_are_what_each_prompt_gets_alone(run, tmp_path):
    (tmp_path / "prompts").write_text("abc\nhello\n")
    together = run("--file", tmp_path / "prompts").records
    for record in together:
        alone = run(record["prompt"]["text"], "--format", "json").record
        assert record["scores"][0] == pytest.approx(alone["scores"][0], abs=1e-5)
        assert record["notes"]["k"] == alone["notes"]["k"]


def test_a_scale_that_one_line_does_not_allow_stops_no_other_line(run, tmp_path):
    prompts = ["abc", "hello", "xyz", "q", "0123456789", "noise"]
    (tmp_path / "prompts").write_text("\n".join(prompts))
    sums = [sum(record["scores"][0]) for record in run("--file", tmp_path / "prompts").records]
    assert min(sums) <= 0 < max(sums), "the example must hold both"
    ended = run("--file", tmp_path / "prompts", "--normalize", "signed_sum")
    assert ended.code == 1
    assert [record["line"] for record in ended.records] == [1, 2, 3, 4, 5, 6]
    assert ["error" in record for record in ended.records] == [total <= 0 for total in sums]


def test_out_gets_the_result_and_standard_output_nothing(run, tmp_path):
    place = tmp_path / "result.json"
    ended = run("a\u00e9", "--format", "json", "--out", place)
    assert (ended.code, ended.out) == (0, "")
    assert strict(place.read_text(encoding="utf-8"))["prompt"]["text"] == "a\u00e9"


def test_a_failure_leaves_the_file_of_an_earlier_result_alone(run, tmp_path):
    place = tmp_path / "result.json"
    place.write_text("earlier")
    assert run("x" * 65, "--format", "json", "--out", place).code == 1
    assert place.read_text() == "earlier"


@pytest.mark.parametrize("how", ["clip_l1", "abs_l1", "softmax", "minmax"])
def test_normalize_adds_and_leaves_the_scores(run, how):
    plain, scaled = run("abc", "--format", "json").record, run("abc", "--format", "json", "--normalize", how).record
    assert scaled["scores"] == plain["scores"]
    assert "normalized" not in plain
    assert list(scaled["normalized"]) == ["how", "scores"]
    assert scaled["normalized"]["how"] == how
    assert [len(row) for row in scaled["normalized"]["scores"]] == [3]
    assert scaled["normalized"]["scores"] != plain["scores"]
    assert all(0 <= share <= 1 for share in scaled["normalized"]["scores"][0])


def test_a_target_may_be_an_id(run):
    by_id = run("abc", "--format", "json", "--target", "id:91").record
    assert by_id["target"]["token_ids"] == [91]
    assert by_id["target"]["tokens"] == ["y"]
    assert by_id["target"]["rank"] > 0
    assert run("abc", "--format", "json", "--target", "y").record["scores"] == by_id["scores"]


def test_the_seed_decides_the_numbers(run):
    def result(*seed):
        record = run("abc", "--format", "json", *seed).record
        del record["cost"]["seconds"], record["cost"]["peak_bytes"]
        return json.dumps(record)

    assert result("--seed", 3) == result("--seed", 3) == result("--set", "seed=3")
    assert result() == result("--seed", 0)
    assert json.loads(result("--seed", 3))["scores"] != json.loads(result("--seed", 4))["scores"]


def test_options_reach_the_model_and_the_method(run, loads):
    record = run(
        "abc", "--model", "here", "--dtype", "float16", "--attention", "eager", "--token-budget", 9, "--allow-pickle", "--format", "json"
    ).record
    ((model, options),) = loads
    assert model == "here"
    assert options == {
        "tokenizer": None,
        "max_connections": 8,
        "adapter": None,
        "template_args": None,
        "revision": None,
        "device": "auto",
        "dtype": "float16",
        "attention": "eager",
        "trust_remote_code": False,
        "allow_pickle": True,
        "token_budget": 9,
    }
    assert (record["options"]["samples"], record["options"]["steps"]) == (2, 10)


def test_the_heat_map_shows_each_token_with_its_score(run):
    ended = run("abc")
    record = run("abc", "--format", "json").record
    assert ended.code == 0
    lines = [re.sub(r" +ranks \d+-\d+$", "", line).rstrip() for line in ended.out.splitlines()]
    for token, score in zip("abc", record["scores"][0], strict=True):
        assert any(f"{score:+.4f} \u00b1 " in line and line.endswith(token) for line in lines)
    assert f"p = {record['target']['prob']:.3f}" in ended.out


def raw_controls(text):
    """Characters that steer a terminal or are invisible, the newline aside."""
    return [c for c in text if (ord(c) < 32 and c != "\n") or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u200b"]


@pytest.mark.parametrize("prompt", [CONTROL, "[bold]abc[/bold] [/] [red"], ids=["controls", "markup"])
def test_a_prompt_cannot_steer_the_terminal(run, tmp_path, prompt):
    ended = run(prompt)
    assert ended.code == 0
    assert not raw_controls(ended.out + ended.err)
    shown = "[bold]abc[/bold]\u00b7" if "bold" in prompt else "\\x1b[31mred\\x07"
    assert shown.rstrip("\u00b7") in ended.out
    (tmp_path / "prompts").write_text(f"{prompt}\n{prompt * 64}\n")
    many = run("--file", tmp_path / "prompts", "--format", "heatmap")
    assert many.code == 1
    assert not raw_controls(many.out + many.err)
    assert "line 1" in many.out
    assert "Error: the prompt has" in many.out


def test_a_target_cannot_steer_the_terminal(run):
    ended = run("abc", "--target", CONTROL)
    assert ended.code == 0
    assert not raw_controls(ended.out + ended.err)
    assert "\\x1b" in ended.out
    too_long = run("x" * 60, "--target", CONTROL)
    assert too_long.code == 1
    assert not raw_controls(too_long.out + too_long.err)


@pytest.mark.parametrize("arguments", [("abc", "--method", CONTROL), ("abc", "--set", CONTROL), ("--file", CONTROL)])
def test_an_error_cannot_steer_the_terminal(run, arguments):
    ended = run(*arguments)
    assert ended.code in (1, 2)
    assert not raw_controls(ended.out + ended.err)
    assert "\\x1b" in ended.err


def test_the_real_command_on_the_real_model():
    prompt = "The Eiffel Tower is located in the city of"
    ended = python("", "-m", "noiser.cli", "attribute", prompt, "--format", "json", "--set", "samples=3", "--set", "steps=5")
    assert ended.returncode == 0, ended.stderr
    record = strict(ended.stdout)
    assert record["target"]["tokens"] == [" Paris"]
    assert record["revision"].startswith("sha256:")
    assert "".join(record["prompt"]["tokens"]) == record["prompt"]["text"]
    strongest = max(range(len(record["scores"][0])), key=record["scores"][0].__getitem__)
    assert record["prompt"]["tokens"][strongest] in (" E", "iffel", " Tower", " city")
    assert ended.stderr == ""


@pytest.mark.parametrize("form", ["heatmap", "json"])
def test_a_standard_output_that_knows_only_ascii_gets_escapes(run, monkeypatch, tmp_path, form):
    with (tmp_path / "shown").open("w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        assert run("caf\u00e9", "--format", form).code == 0
    shown = (tmp_path / "shown").read_text(encoding="ascii")
    if form == "json":
        assert strict(shown)["prompt"]["text"] == "caf\u00e9"
    else:
        assert "caf" in shown


def test_a_heat_map_of_another_method_names_the_recommended_one_and_what_it_takes(run):
    """Mutants: said of the recommended method itself, of another seed of it, or beside JSON; the tokens of the chosen method said."""
    name, _, options = RECOMMENDED.partition(":")
    settings = [word for option in options.split("+") for word in ("--set", option)]
    said = run("one two three", "--method", "occlusion", quick=False).err
    lm = noiser.LanguageModel(tiny("llama"), byte_tokenizer())
    assert f"--method {RECOMMENDED}" in " ".join(said.split())
    tokens = noiser.attribute(lm, "one two three", RECOMMENDED).cost.forward_tokens - len(lm.prompt("one two three"))
    assert f"({tokens:,} token-forwards" in " ".join(said.split())
    for words in (("--method", RECOMMENDED), ("--method", name, *settings, "--seed", "3"), ("--method", "occlusion", "--format", "json")):
        assert "recommended" not in run("one two three", *words, quick=False).err


@pytest.mark.parametrize("method", ["occlusion", RECOMMENDED])
def test_under_a_continuation_no_method_is_recommended(run, method):
    """Mutant: the recommended method named there all the same."""
    for words in (("--generate", "2"), ("--continuation", " and more", "--span", "0:1")):
        said = " ".join(run("one two three", "--method", method, *words, quick=False).err.split())
        assert "recommended: none for continuations" in said
        assert "--method noiser" not in said


def test_documents_are_sources_that_a_budget_refines(run, tmp_path, monkeypatch):
    """Mutants: the documents not passed on; curves computed beyond the budget; a bad document found only after the model was loaded."""
    (tmp_path / "d.jsonl").write_text('{"title": "a", "text": "one"}\n{"title": "b", "text": "two"}\n')
    words = ("three", "--documents", tmp_path / "d.jsonl", "--method", "occlusion:unit=auto")
    ended = run(*words, "--budget", "600", "--format", "json", quick=False)
    assert [part["name"] for part in ended.record["notes"]["levels"]] == ["a", "b", "question"]
    assert ended.record["cost"]["forward_tokens"] <= 600
    monkeypatch.setattr("noiser.attribution.curves.with_curves", lambda *_: pytest.fail("the curves cost more than the budget"))
    run(*words, "--budget", "600", "--out", tmp_path / "a.html", quick=False)
    assert "levels" in (tmp_path / "a.html").read_text()
    levels = run(*words, "--dry-run", "--format", "json", quick=False).record["levels"]
    assert [each["level"] for each in levels][:1] == ["span"]
    (tmp_path / "bad.json").write_text("[{]")
    assert "--documents wants JSON" in run("x", "--documents", tmp_path / "bad.json", quick=False).err


def test_a_budget_sets_the_samples_of_one_prompt(run, tmp_path):
    """Mutants: the budget not passed on; a bad one refused after the model was loaded."""
    ended = run("one two three", "--method", "noiser:bound=none", "--budget", "3000", "--format", "json", quick=False)
    assert 2_700 <= ended.record["cost"]["forward_tokens"] <= 3_000
    (tmp_path / "prompts").write_text("a\nb\n")
    for words, message in (
        (("one", "--budget", "3x"), "a budget is a number of token-forwards"),
        (("one", "--method", "occlusion", "--budget", "9"), "occlusion draws none"),
        (("--file", tmp_path / "prompts", "--budget", "9000"), "--budget is for one prompt"),
    ):
        refused = run(*words, quick=False)
        assert refused.code == 2 and message in refused.err
