"""The options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Text_ = Annotated[str | None, typer.Argument(help="The prompt.", show_default=False)]
Messages = Annotated[str | None, typer.Option(help='A chat instead: a JSON file [{"role": ..., "content": ...}]; - is standard input.')]
Model = Annotated[str, typer.Option(help="smollm2-135m, a hub id, a folder, or a GGUF file.")]
Seed = Annotated[int | None, typer.Option(help="Seed of what the method draws at random. (default: 0)")]
Target = Annotated[
    str | None, typer.Option(help="What to explain, with its leading space, or id:N: one token or several. (default: the model's own)")
]
Foil = Annotated[str | None, typer.Option(help="Why the target and not this?")]
Continuation = Annotated[str | None, typer.Option(help="A text that follows: each of its tokens is explained by all before it.")]
Generate = Annotated[int | None, typer.Option(min=1, help="The same for so many tokens of the model's own, greedy.")]
Span = Annotated[str | None, typer.Option(metavar="FROM:TO", help="These tokens of the continuation as a whole, counted from 0.")]
Quantity = Annotated[str | None, typer.Option(help="prob, log_prob, mean_prob; with --foil prob or log_odds.")]
By = Annotated[str | None, typer.Option(help="Scores summed over: token, word, sentence, line, turn.")]
Normalize = Annotated[str, typer.Option(help="none, clip_l1, abs_l1, softmax, minmax, signed_sum.")]
Out = Annotated[Path | None, typer.Option(help="Write there instead of to standard output.")]
Curves = Annotated[
    bool | None,
    typer.Option("--curves/--no-curves", help="What removing the highest tokens does: at most 48 more rows a method. (default: for html)"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Attention = Annotated[str | None, typer.Option(help="How transformers computes attention, e.g. eager. (default: its own choice)")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Read pickled weights, which can run code.")]
TokenBudget = Annotated[int | None, typer.Option(min=1, help="Tokens through the model at once. (default: what memory allows)")]


def loading(
    revision: str | None,
    device: str,
    dtype: str,
    attention: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    token_budget: int | None,
) -> dict[str, object]:
    """The keywords of `noiser.load`."""
    return {
        "revision": revision,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "trust_remote_code": trust_remote_code,
        "allow_pickle": allow_pickle,
        "token_budget": token_budget,
    }
