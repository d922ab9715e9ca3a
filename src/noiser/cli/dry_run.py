"""`noiser attribute --dry-run`: what it would cost, before it runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from noiser.cli.inputs import say_notes
from noiser.cli.outputs import Output, console
from noiser.errors import NoiserError, OptionError

if TYPE_CHECKING:
    from noiser.attribution.estimate import CostEstimate
    from noiser.lm.model import LanguageModel
    from noiser.lm.target import Question
    from noiser.lm.tokenizer import Source
    from noiser.registry import MethodSpec

MAX_ESTIMATED = 20
"""The most prompts of a file that are estimated. They are spread evenly over it and stand for the others."""
SUMS = ("rows", "forward_tokens", "backward_tokens", "seconds")
FORMATS = ("heatmap", "json", "jsonl")


def check_format(output: Output) -> None:
    """Raises OptionError if an estimate cannot be written in this format."""
    if output.format not in FORMATS:
        raise OptionError(f"--dry-run writes text or --format json, no {output.format}")


def dry_run(lm: "LanguageModel", tasks: "Sequence[tuple[Source, Question] | NoiserError]", method: "MethodSpec", output: Output) -> int:
    """Estimate and write. The exit status is 1 if a prompt cannot be explained. Raises the last error if no prompt can be."""
    from noiser.attribution.estimate import estimate

    valid = [task for task in tasks if isinstance(task, tuple)]
    estimates: list[CostEstimate] = []
    failed: list[NoiserError] = []
    for prompt, question in valid[:: -(-len(valid) // MAX_ESTIMATED) or 1]:
        try:
            estimates.append(estimate(lm, prompt, method, question))
        except NoiserError as error:
            failed.append(error)
    if failed and not estimates:
        raise failed[-1]
    say_notes(f"left out of the estimate: {error}" for error in failed)
    record = _summary(estimates, len(valid) - len(failed), method)
    with output.open() as sink:
        if output.format == "heatmap":
            console(sink).print(_sentences(record), markup=False, highlight=False, soft_wrap=True)
        else:
            output.write_json(record, sink)
    return 1 if failed or len(valid) < len(tasks) else 0


def dry_run_levels(lm: "LanguageModel", prompt: "Source", question: "Question", method: "MethodSpec", output: Output) -> None:
    """What each level of unit=auto would cost on the whole prompt."""
    from noiser.attribution.refine import level_costs
    from noiser.cli.progress import duration

    levels = level_costs(lm, prompt, method, question)
    with output.open() as sink:
        if output.format == "heatmap":
            lines = [f"{method.label}, on the whole prompt at each level:"]
            for each in levels:
                least = "" if each["exact"] else "at least "
                cost = f"{least}{each['rows']:,} rows, {each['forward_tokens']:,} token-forwards, about {duration(each['seconds'])}"
                lines.append(f"  {each['level']:9} {each['parts']:6,} parts, {cost}")
            if not all(each["exact"] for each in levels):
                lines.append(f"The method decides by what it measures. Its usual cost for a target: {method.method.cost}")
            console(sink).print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        else:
            output.write_json({"schema": 1, "method": method.label, "levels": levels}, sink)


def _summary(estimates: "Sequence[CostEstimate]", prompts: int, method: "MethodSpec") -> dict[str, Any]:
    """The estimates added up, and scaled to all prompts."""
    scale = prompts / max(1, len(estimates))
    sums = {name: sum(getattr(each, name) for each in estimates) * scale for name in SUMS}
    return {
        "schema": 1,
        "method": method.label,
        "cost": method.method.cost,
        "prompts": prompts,
        "estimated": len(estimates),
        "longest": max((each.tokens for each in estimates), default=0),
        **{name: value if name == "seconds" else round(value) for name, value in sums.items()},
        "peak_bytes": max((each.peak_bytes for each in estimates), default=0),
        "exact": len(estimates) == prompts and all(each.exact for each in estimates),
        "least": not all(each.exact for each in estimates),
    }


def _sentences(record: dict[str, Any]) -> str:
    from noiser.cli.progress import duration

    about = "at least " if record["least"] else "" if record["exact"] else "about "
    backward = f", {record['backward_tokens']:,} backward" if record["backward_tokens"] else ""
    prompts = f"a prompt of {record['longest']:,} tokens" if record["prompts"] == 1 else f"{record['prompts']:,} prompts"
    lines = [
        f"{record['method']} on {prompts}: {about}{record['rows']:,} rows, {record['forward_tokens']:,} token-forwards{backward}",
        f"{about or 'about '}{duration(record['seconds'])} on this machine, about {record['peak_bytes'] / 1e9:.1f} GB of memory at most",
    ]
    if record["estimated"] < record["prompts"]:
        lines.append(f"from {record['estimated']} of the prompts, spread evenly over the file")
    if record["least"]:
        lines.append(f"The method decides by what it measures. Its usual cost for a target: {record['cost']}")
    return "\n".join(lines)
