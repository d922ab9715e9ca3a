"""`noiser cite`: an answer with numbered citations of the sources that it rests on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from noiser.cli.inputs import parse_method, read_input
from noiser.cli.options import METHOD, WHAT, Method, MethodSeed, ModelOptions, Out, Settings, expand_options, format_option
from noiser.cli.outputs import Output, choose_format, console
from noiser.errors import OptionError

if TYPE_CHECKING:
    from noiser.registry import MethodSpec

FORMATS = ("text", "json", "html")
FIELDS = ("prompt", "messages", "documents", "spans", "answer")


@dataclass(frozen=True, kw_only=True)
class CiteArgs:
    """What `noiser cite` explains, and how. Everything is checked before weights are read."""

    prompt: str | list[Any]
    named: dict[str, Any]
    """The spans or documents of the prompt."""
    answer: str | None
    generate: int | None
    method: "MethodSpec"
    budget: str | None
    output: Output


@expand_options
def cite(
    file: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT.json",
            help='{"prompt": "...", "documents": [{"title": "...", "text": "..."}], "answer": "..."}; or "messages", "spans"; - is '
            "standard input.",
        ),
    ],
    *,
    generate: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="The model writes the answer, at most N tokens, if the file has none.", rich_help_panel=WHAT),
    ] = None,
    method: Method = "noiser:bound=rms+scale=4+samples=5+unit=auto",
    settings: Settings = None,
    seed: MethodSeed = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="N|TIME",
            help="Token-forwards (50000) or time (30s) for each sentence of the answer. (default: three times what the sources alone take)",
            rich_help_panel=METHOD,
        ),
    ] = None,
    model: ModelOptions,
    format_: Annotated[str | None, format_option(f"{', '.join(FORMATS)}. (default: as --out ends, else text)")] = None,
    out: Out = None,
) -> None:
    """Which sources does each sentence of an answer rest on? The answer with numbered citations, each with a confidence."""
    from noiser.attribution.budget import parse_budget

    given = _read(file)
    answer = given.get("answer")
    if answer is None and generate is None:
        raise OptionError(f'{file} has no "answer": write it there, or give --generate N')
    if answer is not None and generate is not None:
        raise OptionError(f'{file} has an "answer", so --generate has nothing to do: leave one of them out')
    if budget is not None:
        parse_budget(budget)
    arguments = CiteArgs(
        prompt=given.get("messages") or given["prompt"],
        named={name: given[name] for name in ("documents", "spans") if given.get(name) is not None},
        answer=answer,
        generate=generate,
        method=parse_method(method, settings or [], seed),
        budget=budget,
        output=Output.checked(choose_format(format_, out, "text", FORMATS), out, FORMATS),
    )
    model.check_chat(arguments.prompt)
    _run(model, arguments)


def _read(file: str) -> dict[str, Any]:
    """The object of the file. Raises OptionError if it is none, or has other or too few fields."""
    from noiser.data.content import read_content

    try:
        items = read_content(read_input(file), file).items
    except OptionError as error:
        raise OptionError(f"{file} wants one JSON object: {error}") from error
    value = items[0].value if len(items) == 1 else None
    if not isinstance(value, dict):
        raise OptionError(f'{file} wants one JSON object, such as {{"prompt": "...", "documents": [...], "answer": "..."}}')
    unknown = [name for name in value if name not in FIELDS]
    if unknown:
        raise OptionError(f"{file} has the unknown field {unknown[0]!r}; cite reads {', '.join(FIELDS)}")
    if (value.get("prompt") is None) == (value.get("messages") is None):
        raise OptionError(f'{file} wants "prompt" or "messages"' + (", not both" if value.get("prompt") is not None else ""))
    if value.get("documents") is not None and value.get("spans") is not None:
        raise OptionError(f'{file} has "documents" and "spans": give one of them, each document is a span')
    wrong = next((name for name in ("prompt", "answer") if not isinstance(value.get(name, ""), str | None)), None)
    if wrong:
        raise OptionError(f"{file}: {wrong!r} wants a text; got {type(value[wrong]).__name__}")
    return value


def _run(model: ModelOptions, arguments: CiteArgs) -> None:
    import noiser.attribution.cite as attribution
    from noiser.cli.progress import loaded_model
    from noiser.views.cited import cited_dict, render_cited

    output = arguments.output
    with loaded_model(model, 1) as (lm, _):
        result = attribution.cite(
            lm,
            arguments.prompt,
            arguments.method,
            answer=arguments.answer,
            generate=arguments.generate,
            budget=arguments.budget,
            **arguments.named,
        )
    if output.format == "html":
        output.write_page(result)
        return
    with output.open() as sink:
        if output.format == "json":
            output.write_json(cited_dict(result), sink)
        else:
            console(sink).print(render_cited(result))
