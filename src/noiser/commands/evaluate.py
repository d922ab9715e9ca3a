"""`noiser evaluate`: prompts and methods in, a table of how faithful they are out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import noiser.methods
from noiser.commands.output import Output, console
from noiser.commands.progress import progress
from noiser.commands.wanted import assigned, decoded, read_judges, read_lines, read_names
from noiser.errors import OptionError, PromptError
from noiser.evaluation import evaluate
from noiser.evaluation.spec import as_examples, chosen_judges, entrants, free_name, measurings
from noiser.judges.protocol import JudgeConfig, tally
from noiser.lm.load import load
from noiser.metrics import METRICS, find_metric
from noiser.registry import read_label
from noiser.results.evaluation import Evaluation
from noiser.results.records import Example

FORMATS = ("table", "json")
FIELDS = ("prompt", "target", "id", "group")
HARMLESS = ("ok", "undefined", "refused", "invalid_answer")


@dataclass(frozen=True)
class Wanted:
    """What to evaluate; everything in it is checked before any weights are read."""

    examples: list[Example]
    methods: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, Mapping[str, Any]]
    controls: list[str]
    limit: int | None
    generate: int | None
    seed: int
    plots: Path | None
    judges: list[str]
    judge_how: JudgeConfig

    @classmethod
    def checked(
        cls,
        prompts: str | None,
        names: tuple[str, str, str],
        settings: Sequence[str],
        shared: Mapping[str, Any],
        numbers: tuple[int | None, int | None, int],
        plots: Path | None,
        judging: tuple[str | None, JudgeConfig],
    ) -> "Wanted":
        """From names of methods, controls and metrics, and what is set for them. Raises OptionError for what does not fit."""
        if prompts is None:
            raise OptionError("give --prompts FILE, one prompt a line (- is standard input), or --list to read about the metrics")
        if plots is not None:
            try:
                plots.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OptionError(f"--plots wants a folder that can be written; {plots}: {error.strerror}") from error
        methods, controls, metrics = (
            read_names(option, given) for option, given in zip(("--methods", "--controls", "--metrics"), names, strict=True)
        )
        has = {
            **{label: noiser.methods.find(read_label(label)[0]).options for label in methods},
            **{label: find_metric(read_label(label)[0]).options for label in metrics},
        }
        given = assigned(settings, has, "--methods and --metrics")
        for option, value in shared.items():
            if value is not None:
                _share(option, value, {label: has[label] for label in metrics}, given)
        limit, generate, seed = numbers
        by_method, by_metric = ({label: given[label] for label in labels} for labels in (methods, metrics))
        entrants(by_method, controls, seed, 0)
        judges = read_judges(judging[0])
        measurings(by_metric, seed, chosen_judges(judges, by_metric, judging[1]))
        return cls(read_examples(prompts), by_method, by_metric, controls, limit, generate, seed, plots, judges, judging[1])


def read_examples(file: str) -> list[Example]:
    """A prompt a line, or with `.jsonl` an object a line; blank lines are passed over. A line that is neither costs the others
    nothing: it becomes an example that failed. Raises OptionError where there is no line at all, or an id comes twice."""
    lines = read_lines(file)
    if not lines:
        raise OptionError(f"there are no prompts in {'standard input' if file == '-' else file}")
    found = [(number, _example(number, line, objects=file.endswith((".jsonl", ".ndjson")))) for number, line in lines]
    taken = [each.id for _, each in found if each.id is not None]
    return as_examples(each if each.id is not None else replace(each, id=free_name(str(number), taken)) for number, each in found)


def _example(number: int, line: bytes, *, objects: bool) -> Example:
    text = decoded(line)
    if not isinstance(text, str):
        return Example(PromptError(f"line {number}: {text}"))
    if not objects:
        return Example(text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Example(PromptError(f"line {number} is not JSON: {error}"))
    if not isinstance(found, dict) or not isinstance(found.get("prompt"), str | list):
        wanted = 'an object with a "prompt" that is text, ids or messages'
        return Example(PromptError(f"line {number} wants {wanted}; got {text[:80]}"))
    own = {key: found[key] for key in FIELDS if found.get(key) is not None}
    return Example(**{**own, **{key: str(own[key]) for key in ("id", "group") if key in own}})


def _share(option: str, value: Any, has: Mapping[str, Mapping[str, Any]], given: dict[str, dict[str, Any]]) -> None:
    """One option for all metrics that have it and do not say otherwise themselves."""
    takers = [label for label in has if option in has[label]]
    if not takers:
        raise OptionError(f"--{option} is for the soft metrics; none of {', '.join(has)} is one")
    for label in takers:
        if option not in read_label(label)[1]:
            given[label].setdefault(option, value)


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted, output: Output) -> int:
    """Evaluate and write; the exit status is 1 if anything failed (undefined, refused and invalid answers have not), after all the
    rest was done."""
    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, len(wanted.examples[: wanted.limit]))
        found = evaluate(
            lm,
            wanted.examples,
            wanted.methods,
            wanted.metrics,
            controls=wanted.controls,
            generate=wanted.generate,
            limit=wanted.limit,
            seed=wanted.seed,
            judges=wanted.judges,
            judge_how=wanted.judge_how,
            on_sample=lambda _: watch.advance(),
        )
        for name, counts in found.judges.items():
            watch.say(tally(name, counts), keep=True)
    with output.opened() as sink:
        _write(found, output, sink)
    if wanted.plots is not None:
        from noiser.views.plots import save_plots

        save_plots(found.summaries, found.model, wanted.plots)
    return 0 if set(found.statuses) <= set(HARMLESS) else 1


def _write(found: Evaluation, output: Output, sink: Any) -> None:
    if output.form == "json":
        output.write_json(found.to_dict(), sink)
        return
    from noiser.views.terminal.evaluation import render_evaluation

    screen = console(sink)
    if not sink.isatty():
        screen.width = 120
    screen.print(render_evaluation(found))


def explain(output: Output) -> int:
    """Two lines a metric: what it measures, what fools it; and its options."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    entries = [METRICS[name] for name in sorted(METRICS)]
    fields = {"fools": "failure_mode"} | {name: name for name in ("cost", "source", "options")}
    fields = {name: name for name in ("name", "better", "measures")} | fields
    with output.opened() as sink:
        if output.form == "json":
            metrics = [{key: getattr(each, field) for key, field in fields.items()} for each in entries]
            output.write_json({"schema": 1, "metrics": metrics}, sink)
            return 0
        blocks: list[Any] = []
        for each in entries:
            options = ", ".join(f"{name}={value}" for name, value in each.options.items())
            blocks.append(Text.assemble((each.name, "bold"), f"  ({each.better} is better)  ", (options, "dim")))
            said = (("measures", each.measures), ("fools it", each.failure_mode))
            blocks += [Padding(Text(f"{what}: {sentence}"), (0, 0, 0, 4)) for what, sentence in said]
        console(sink).print(Group(*blocks))
    return 0
