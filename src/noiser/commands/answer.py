"""`noiser answer`: one prompt in; its kept words, what judges made of them and a verdict out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import noiser.methods
from noiser.commands.output import Output, console
from noiser.commands.progress import progress
from noiser.commands.wanted import read_judges, read_settings, read_words
from noiser.evaluation.answer import METRIC, answer
from noiser.evaluation.spec import chosen_judges
from noiser.judges.protocol import Judge, JudgeConfig, tally
from noiser.lm.load import load
from noiser.metrics import find_metric

FORMATS = ("text", "json")


@dataclass(frozen=True)
class Wanted:
    """What to explain and whom to ask; everything in it is checked before any weights are read."""

    prompt: str
    target: Any
    method: str
    options: Mapping[str, Any]
    judges: Sequence[Judge]
    metric: Mapping[str, Any]

    @classmethod
    def checked(
        cls,
        prompt: str,
        target: str | None,
        how: tuple[str, Sequence[str]],
        asked: tuple[str | None, JudgeConfig],
        metric: Mapping[str, Any],
    ) -> "Wanted":
        """From a method with its settings, judges with how to ask them, and the metric's options. Raises OptionError for what
        does not exist or fit."""
        method, settings = how
        found = noiser.methods.find(method)
        seed = {"seed": metric["seed"]} if "seed" in found.options else {}
        options, metric = found.resolve({**seed, **read_settings(settings)}), find_metric(METRIC).resolve(metric)
        judges = chosen_judges(read_judges(asked[0]), [METRIC], asked[1])
        return cls(prompt, read_words("--target", target), method, options, judges, metric)


def run(model: str, load_options: Mapping[str, Any], wanted: Wanted, output: Output) -> int:
    """Explain, ask and write; the exit status is 1 where a judge gave no verdict, whatever the verdicts are."""
    with progress() as watch:
        watch.say(f"loading {model}")
        lm = load(model, **load_options)
        watch.follow(lm, 1)
        case = answer(lm, wanted.prompt, wanted.target, wanted.method, wanted.options, judges=wanted.judges, **wanted.metric)
        for judge in wanted.judges:
            watch.say(tally(judge.name, judge.counts), keep=True)
    with output.opened() as sink:
        if output.form == "json":
            output.write_json(case.to_dict(), sink)
        else:
            from noiser.views.terminal.answer_case import render_case

            console(sink).print(render_case(case))
    return 0 if all(each.correct is not None for each in case.rulings) else 1
