"""`noiser load`: show saved results again, and make pages and pictures of them. No model is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.options import OUTPUT, Out, expand_options, format_option
from noiser.cli.outputs import Output, ScaleOptions, choose_format, console, named_view, page
from noiser.errors import OptionError, require_extra

if TYPE_CHECKING:
    from rich.console import RenderableType

    from noiser.results.saved import Result, Saved

FORMATS = ("heatmap", "table", "json", "jsonl", "html", "svg", "png")
FORMAT_HELP = f"{', '.join(FORMATS)}. (default: as --out ends; else heatmap for scores, table for others)"
OF_SCORES = ("heatmap", "json", "jsonl", "html", "svg", "png")
OF_INTERACTIONS = ("table", "json", "jsonl", "html")
OF_TABLES = ("table", "json")


@expand_options
def load(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON or JSON lines that noiser wrote with --format json or jsonl.", show_default=False)
    ],
    *,
    format_: Annotated[str | None, format_option(FORMAT_HELP)] = None,
    out: Out = None,
    display: ScaleOptions,
    plots: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Of an evaluation: write a plot of each metric as SVG and PNG.", rich_help_panel=OUTPUT),
    ] = None,
) -> None:
    """Show saved results again, and make pages and pictures of them."""
    from noiser.results.saved import read_saved

    display.check()
    found = read_saved(file)
    output = _output(file, found, format_, out)
    if plots is not None:
        _save_plots(found, plots)
    for saved in found:
        _check(saved, display)
    _write(found, display, output)


def _output(file: Path, found: "Sequence[Saved]", format_: str | None, out: Path | None) -> Output:
    """The format and the file. Raises OptionError for a format that does not fit what was saved."""
    has_tables = any(_is_table(saved.result) for saved in found)
    has_pairs = any(_is_interactions(saved.result) for saved in found)
    formats = OF_TABLES if has_tables else OF_INTERACTIONS if has_pairs else OF_SCORES
    chosen = choose_format(format_, out, formats[0], FORMATS)
    output = Output.checked(chosen, out, FORMATS)
    kind = "an evaluation or a checkup" if has_tables else "interactions" if has_pairs else "scores"
    if output.format not in formats:
        plots = ". Plots of an evaluation: --plots FOLDER" if has_tables else ""
        raise OptionError(f"{file.name} holds {kind}, for which --format is one of {', '.join(formats)}; got {output.format!r}{plots}")
    if len(found) > 1 and output.format in ("json", "svg", "png"):
        raise OptionError(f"{file.name} holds {len(found)} results, and --format {output.format} is for one; use html, or jsonl")
    return output


def _is_table(result: "Result") -> bool:
    from noiser.results.evaluation import Evaluation
    from noiser.results.sanity import Checkup, MetricCheckup

    return isinstance(result, Evaluation | Checkup | MetricCheckup)


def _is_interactions(result: "Result") -> bool:
    from noiser.results.interactions import Interactions

    return isinstance(result, Interactions)


def _check(saved: "Saved", display: ScaleOptions) -> None:
    """Raises OptionError if the scores cannot be normalized or summed as the user wants."""
    from noiser.results.attribution import Attribution, Comparison

    result = saved.result
    for attribution in result.attributions if isinstance(result, Comparison) else [result]:
        if isinstance(attribution, Attribution):
            try:
                display.check_result(attribution)
            except OptionError as error:
                raise OptionError(f"{saved.name}: {error}" if saved.name else str(error)) from error


def _save_plots(found: "Sequence[Saved]", folder: Path) -> None:
    from noiser.results.evaluation import Evaluation
    from noiser.views.plots import save_plots

    evaluations: list[Evaluation] = [saved.result for saved in found if isinstance(saved.result, Evaluation)]
    if len(evaluations) != 1:
        raise OptionError(f"--plots is for one evaluation; the file holds {len(evaluations) or 'none'}")
    require_extra("plots", "--plots")
    save_plots(evaluations[0].summaries, evaluations[0].model, folder)


def _write(found: "Sequence[Saved]", display: ScaleOptions, output: Output) -> None:
    if output.format == "html":
        _write_page(found, output)
    elif output.format in ("svg", "png"):
        output.write_picture(_drawable(found[0]), display)
    else:
        with output.open() as sink:
            for saved in found:
                _write_one(saved, display, output, sink)


def _write_page(found: "Sequence[Saved]", output: Output) -> None:
    """One page for all results. Prompts that failed have no scores: they are named on standard error."""
    from noiser.cli.inputs import say_notes
    from noiser.results.saved import FailedPrompt
    from noiser.views.labels import visible
    from noiser.views.viewer.data import view

    say_notes(f"{saved.name}: {saved.result.message}" for saved in found if isinstance(saved.result, FailedPrompt))
    results = [(visible(saved.name), _drawable(saved)) for saved in found if not isinstance(saved.result, FailedPrompt)]
    if not results:
        raise OptionError("every prompt in the file failed, so there are no scores to show")
    output.write(page([named_view(result, name) if name else view(result) for name, result in results]))


def _drawable(saved: "Saved") -> Any:
    """The attribution, comparison or interactions. Raises OptionError for a prompt that failed."""
    from noiser.results.attribution import Attribution, Comparison
    from noiser.results.interactions import Interactions

    if not isinstance(saved.result, Attribution | Comparison | Interactions):
        raise OptionError(f"{saved.name or 'the prompt'} failed, so there are no scores to draw")
    return saved.result


def _write_one(saved: "Saved", display: ScaleOptions, output: Output, sink: IO[str]) -> None:
    from noiser.results.attribution import Attribution, Comparison

    result = saved.result
    if output.format in ("json", "jsonl"):
        record = {**result.to_dict(), **saved.place}
        if isinstance(result, Attribution):
            record |= display.extra_json(result)
        for plain, each in zip(record["attributions"], result.attributions, strict=True) if isinstance(result, Comparison) else ():
            plain.update(display.extra_json(each))
        output.write_json(record, sink)
        return
    width = 24 + 30 * len(result.attributions) if isinstance(result, Comparison) else 120 if _is_table(result) else 0
    screen = console(sink, min_width=width)
    if saved.name:
        from rich.text import Text

        from noiser.views.labels import visible

        screen.rule(Text(visible(saved.name)), style="dim")
    screen.print(_rendered(result, display))


def _rendered(result: "Result", display: ScaleOptions) -> "RenderableType":
    """The result as the command that computed it shows it."""
    from rich.text import Text

    from noiser.results.attribution import Attribution, Comparison
    from noiser.results.evaluation import Evaluation
    from noiser.results.interactions import Interactions
    from noiser.results.sanity import Checkup, MetricCheckup
    from noiser.views.labels import visible
    from noiser.views.terminal.attribution import heatmap
    from noiser.views.terminal.comparison import render_comparison
    from noiser.views.terminal.evaluation import render_evaluation
    from noiser.views.terminal.interactions import render_interactions
    from noiser.views.terminal.sanity import render_checkup, render_metric_checkup

    if isinstance(result, Attribution):
        return heatmap(result, display.normalize, display.granularity)
    if isinstance(result, Comparison):
        return render_comparison(result, display.normalize, display.granularity)
    if isinstance(result, Interactions):
        return render_interactions(result)
    if isinstance(result, Evaluation):
        return render_evaluation(result)
    if isinstance(result, Checkup):
        return render_checkup(result)
    if isinstance(result, MetricCheckup):
        return render_metric_checkup(result)
    return Text(f"Error: {visible(result.message)}", style="red")
