"""`noiser answer`: are the highest words enough to find the answer?"""

from typing import Annotated

import typer

from noiser.cli.judge_options import JudgeAtOnce, JudgeBudget, JudgeCache, Judges, JudgeTimeout, JudgeUrl, judge_how
from noiser.cli.options import AllowPickle, Attention, Device, Dtype, Model, Out, Revision, TokenBudget, TrustRemoteCode, loading


def answer(
    text: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    target: Annotated[
        str | None,
        typer.Option(help="The answer: a word, the space before it is put there; or id:N. (default: the model's own next token)"),
    ] = None,
    judge: Judges = None,
    method: Annotated[str, typer.Option(help="How to attribute; noiser methods lists them.")] = "noiser",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the method, e.g. samples=20; may be repeated.")
    ] = None,
    model: Model = "smollm2-135m",
    share: Annotated[float, typer.Option(help="Of the words, how many are kept: 0 to 1, rounded up, at least one.")] = 0.5,
    forms: Annotated[str, typer.Option(help="top1, top5, or top1,top5: asked for one word, or for five.")] = "top1,top5",
    variant: Annotated[str, typer.Option(help="paper, official.")] = "paper",
    words: Annotated[str, typer.Option(help="unicode, treebank.")] = "unicode",
    checks: Annotated[bool, typer.Option(help="Show all words, none, random and shuffled ones, and a hidden order, too.")] = True,
    seed: Annotated[int, typer.Option(help="Of everything drawn at random.")] = 0,
    judge_url: JudgeUrl = None,
    judge_cache: JudgeCache = "use",
    judge_at_once: JudgeAtOnce = 8,
    judge_timeout: JudgeTimeout = 60.0,
    judge_budget: JudgeBudget = 300.0,
    format_: Annotated[str, typer.Option("--format", help="text, json.")] = "text",
    out: Out = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    attention: Attention = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    allow_pickle: AllowPickle = False,
    token_budget: TokenBudget = None,
) -> None:
    """Is the explanation enough? A judge sees only the words with the highest scores and says how the prompt goes on."""
    from noiser.commands.answer import FORMATS, Wanted, run
    from noiser.commands.output import Output

    written = Output.checked(format_, out, FORMATS)
    how = judge_how(judge_url, judge_cache, judge_at_once, judge_timeout, judge_budget, device)
    metric = {"share": share, "forms": forms, "variant": variant, "words": words, "checks": checks, "seed": seed}
    wanted = Wanted.checked(text, target, (method, set_ or []), (judge, how), metric)
    loaded = loading(revision, device, dtype, attention, trust_remote_code, allow_pickle, token_budget)
    raise typer.Exit(run(model, loaded, wanted, written))
