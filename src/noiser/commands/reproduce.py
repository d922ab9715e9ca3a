"""`noiser reproduce`: a table or figure of the paper, from plan to report in one command."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noiser.commands.output import Output, console
from noiser.commands.report import rendered, save_figures
from noiser.commands.run import exit_status, standing
from noiser.commands.run_progress import run_progress
from noiser.experiments.fingerprint import key
from noiser.experiments.folder import RunFolder
from noiser.experiments.plan import ExecutionConfig
from noiser.experiments.report.report import report
from noiser.experiments.report.reproduce import present_sets, published, reproduction
from noiser.experiments.run import prepare, run, run_here
from noiser.storage import write_whole

RUNS = Path("runs")


def reproduce(
    name: str,
    model: Mapping[str, Any],
    given: tuple[Sequence[str], Sequence[str]],
    numbers: tuple[int | None, int],
    how: ExecutionConfig,
    out: Path | None,
    output: Output,
) -> int:
    """Plan, run (or go on) and report; the exit status is that of the run. `given` are data sets and judges, where any are.

    Without `out` the folder is named by what changes the numbers, so that the same command goes on where it stopped, and another
    one begins anew. The folder gets report.html, report.md and the figures; the report goes to the output as well.
    """
    wanted, (data, judges) = published(name), given
    sets, said = (list(data), []) if data else present_sets(wanted.data)
    plan = reproduction(name, [model], sets, *numbers, judges)
    with run_progress() as watch:
        for sentence in said:
            watch.say(sentence, keep=True)
        prepared = prepare(plan, how)
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", plan.models[0].label).strip("-.").lower()
        place = out or RUNS / f"{wanted.folder or name}-{slug}-{key(prepared.identity)[:8]}"
        watch.say(f"the run is kept in {place}", keep=True)
        found = run(prepared, place, how, watch, run_here)
    console(sys.stderr).print(standing(found, place))
    _write(place, wanted.sections, output)
    return exit_status(found, how)


def _write(place: Path, sections: Sequence[str], output: Output) -> None:
    document = report(RunFolder.open(place), only=sections)
    save_figures(document, place / "figures")
    for form, file in (("html", "report.html"), ("md", "report.md")):
        write_whole(place / file, rendered(document, form).encode())
    with output.opened() as sink:
        sink.write(rendered(document, output.form, (place / "figures").as_posix()))
