"""`noiser run` and `noiser status`: a plan in, a folder of records out, and how it stands."""

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from noiser.commands.output import Output, console
from noiser.commands.run_progress import duration, run_progress
from noiser.commands.wanted import read_judges
from noiser.errors import OptionError
from noiser.experiments.plan import ExecutionConfig, Plan, make_plan, read_plan
from noiser.experiments.run import Outcome, prepare, run, run_here
from noiser.experiments.schedule import Executor, Watch
from noiser.experiments.shards import local_device, read_shard
from noiser.views.escape import visible

FORMATS = ("table", "json")
UNFINISHED = 75
"""The exit status of a run that was stopped in good order before its end: come again (EX_TEMPFAIL)."""


def wanted_plan(plan: Path | None, given: Mapping[str, Any]) -> Plan:
    """The plan of a file, or of the command line's lists. Raises OptionError for both or neither."""
    said = {name: value for name, value in given.items() if value is not None}
    if plan is not None:
        if said:
            raise OptionError(f"the plan says what is run: leave out {', '.join(f'--{name}' for name in said)}, or change {plan}")
        return read_plan(plan)
    if "data" not in said:
        raise OptionError("give a plan (noiser run PLAN.toml), or --data: known-mini, longra-mini, wikibio-mini, a .jsonl file, ...")
    shared = {name: said.pop(name) for name in ("revision", "dtype", "attention", "trust_remote_code", "allow_pickle") if name in said}
    models = said.pop("models", "smollm2-135m").split(",")
    generate = {"generate": said.pop("generate")} if "generate" in said else {}
    lists = {name: _names(said.pop(name)) for name in ("methods", "metrics", "controls") if name in said}
    lists |= {"judges": read_judges(said.pop("judges"))} if "judges" in said else {}
    data = [_with(each, generate) for each in _names(said.pop("data"))]
    return make_plan({"models": [{**_model(each.strip()), **shared} for each in models if each.strip()], "data": data, **lists, **said})


def _names(given: str) -> list[str]:
    return [each.strip() for each in given.split(",") if each.strip()]


def _model(label: str) -> dict[str, Any]:
    from noiser.registry import read_label

    name, options = (label, {}) if Path(label).exists() else read_label(label)
    return {"name": name, **options}


def _with(label: str, options: Mapping[str, Any]) -> Any:
    from noiser.data import read_label_of_data

    name, path, own = read_label_of_data(label)
    return {"name": name, **({} if path is None else {"path": path}), **options, **own}


def how_to_run(*, device: str, shard: str | None, engine: str, address: str | None, workers: int | None, **rest: Any) -> ExecutionConfig:
    """The settings that change no number, checked; the share of the work and the GPU as the launcher has them."""
    if engine not in ("local", "ray"):
        raise OptionError(f"--engine must be local or ray; got {engine!r}")
    if engine == "local" and (address is not None or workers is not None):
        raise OptionError("--address and --workers are for --engine ray")
    if engine == "ray":
        if shard is not None:
            raise OptionError("--engine ray shares out the work itself: leave out --shard")
        return ExecutionConfig(device=device, engine=engine, address=address, workers=workers, **rest)
    share = read_shard(shard)
    placed = device if rest["device_map"] is not None else local_device(device)
    return ExecutionConfig(device=placed, shard=share, engine=engine, **rest)


def carry_out(plan: Plan, out: Path | None, how: ExecutionConfig) -> int:
    """Run, and say how it ended; the exit status: 0, 1 where too many samples failed, 75 where it was stopped before its end."""
    if out is None:
        raise OptionError("give --out FOLDER: what is done is kept there, and the same command goes on from it")
    with run_progress() as watch:
        found = do(plan, out, how, watch)
    console(sys.stderr).print(standing(found, out))
    return exit_status(found, how)


def do(plan: Plan, out: Path, how: ExecutionConfig, watch: Watch) -> Outcome:
    """Find models and data, and run."""
    if how.shard != (0, 1):
        watch.say(f"this is shard {how.shard[0]}/{how.shard[1]}, counted from 0: it does every {how.shard[1]}th sample", keep=True)
    watch.say("looking for models and data")
    return run(prepare(plan, how), out, how, watch, executor_of(how))


def executor_of(how: ExecutionConfig) -> Executor:
    """What does the work: this process, or a Ray cluster."""
    if how.engine == "local":
        return run_here
    from noiser.experiments.ray.driver import run_on_ray

    return run_on_ray


def exit_status(found: Outcome, how: ExecutionConfig) -> int:
    """0: done; 1: done, but more samples failed than may; 75: not done yet."""
    if found.failed > how.max_errors * (found.samples + found.unreadable):
        return 1
    return UNFINISHED if found.stopped or not (found.complete or how.shard != (0, 1)) else 0


def standing(found: Outcome, out: Path) -> Any:
    """How a run stands, in a few lines."""
    from rich.text import Text

    sums = " + ".join(f"{count:,} {visible(status)}" for status, count in sorted(found.statuses.items(), key=lambda item: -item[1]))
    unread = f", {found.unreadable:,} unreadable rows" if found.unreadable else ""
    done = f"{found.done:,} of {found.samples:,} samples done, {found.failed - found.unreadable:,} with failures{unread}"
    lines = [done, f"{found.planned:,} trials = {sums or 0}"]
    lines += [f"damaged: {visible(each)}" for each in found.damaged]
    going_on = "not complete: the same command goes on from here (of several shards each does its own)"
    lines.append(f"noiser report {visible(str(out))} shows the tables" if found.complete else going_on)
    return Text("\n".join(lines))


def status(out: Path, output: Output) -> int:
    """How the run in a folder stands; the exit status is 1 where it is not complete."""
    from noiser.experiments.folder import RecordIndex, RunFolder
    from noiser.experiments.run import outcome
    from noiser.experiments.trials import Work, row_status, statuses, unfinished

    folder = RunFolder.open(out)
    found, work = RecordIndex(folder, whole=False), Work(folder)
    whole = outcome(folder, found, work)
    parts = []
    for part in work.parts:
        counts = statuses(part.samples, found)
        for row in part.rows or ():
            if not row["kept"]:
                counts[row_status(row)] = counts.get(row_status(row), 0) + len(part.trials)
        done = len(part.samples) - len(unfinished(part.samples, found))
        rows = len(part.rows) if part.rows is not None else None
        parts.append({"model": part.model, "data": part.data, "rows": rows, "kept": len(part.samples), "done": done, "statuses": counts})
    strangers = len(found.records.keys() - {key for sample in work.samples() for key in sample.record_keys()})
    with output.opened() as sink:
        if output.form == "json":
            said = {**asdict(whole), "planned": whole.planned, "parts": parts, "files": found.files, "unknown_records": strangers}
            output.write_json({"schema": 1, **said}, sink)
        else:
            console(sink).print(_status_table(parts), *_files(found.files, strangers), standing(whole, out), sep="\n")
    return 0 if whole.complete else 1


def _status_table(parts: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("model", "data", "rows", "kept", "done", "trials"):
        table.add_column(heading, justify="left" if heading in ("model", "data", "trials") else "right")
    for part in parts:
        said = ", ".join(f"{count:,} {status}" for status, count in sorted(part["statuses"].items()))
        rows = "?" if part["rows"] is None else f"{part['rows']:,}"
        cells = (part["model"], part["data"], rows, f"{part['kept']:,}", f"{part['done']:,}", said or "not screened yet")
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def _files(files: Mapping[str, int], strangers: int) -> list[str]:
    said = [f"{sum(files.values()):,} records in {len(files)} files"]
    return [*said, f"{strangers:,} records are of no trial of this run and are not counted"] if strangers else said


def dry_run(plan: Plan, out: Path | None, how: ExecutionConfig, output: Output) -> int:
    """What a run would take."""
    from noiser.experiments.estimate import estimate

    with run_progress() as watch:
        found = estimate(prepare(plan, how), out, how, watch)
    with output.opened() as sink:
        if output.form == "json":
            output.write_json({"schema": 1, **found.to_dict()}, sink)
            return 0
        screen = console(sink)
        for part in found.parts:
            screen.print(
                f"{visible(part.model)} on {visible(part.data)}: {part.samples:,} samples of {part.rows:,} rows, {part.trials:,} trials; "
                f"{part.forward_tokens:,} tokens forward, {part.backward_tokens:,} backward, {duration(part.seconds)}"
            )
        screen.print(f"All: {found.trials:,} trials, {found.forward_tokens:,} tokens forward, {found.backward_tokens:,} backward")
        if found.clues:
            screen.print(f"{found.clues:,} clues for judges, forms and conditions each; what was answered before comes from the cache")
        screen.print(f"About {duration(found.seconds)} for one worker like this one; peak memory {found.peak_bytes / 2**30:.1f} GiB")
        screen.print(f"From {found.calibrated} samples that were run in {found.spent:.0f} s; nothing was written")
    return 0
