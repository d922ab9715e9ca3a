"""The budget of one attribution, the forecast of its progress, and what the recommended method would take."""

from typing import TYPE_CHECKING

from noiser.errors import OptionError
from noiser.registry import RECOMMENDED

if TYPE_CHECKING:
    from noiser.cli.progress import PromptProgress
    from noiser.lm.model import LanguageModel
    from noiser.lm.target import Question
    from noiser.lm.tokenizer import Source
    from noiser.registry import MethodSpec
    from noiser.results.attribution import Attribution

FORECAST_TOKENS = 64
"""Tokens of a prompt from which on the cost is counted before it is explained, for the progress bar."""


def is_auto(method: "MethodSpec") -> bool:
    """Whether the budget says how fine the scores are, and not how many samples they have."""
    return method.options.get("unit") == "auto"


def check_budget(budget: str, method: "MethodSpec", *, many: bool) -> None:
    """Raises OptionError for what is no budget, or cannot keep one."""
    from noiser.attribution.budget import parse_budget

    parse_budget(budget)
    if many:
        raise OptionError("--budget is for one prompt; with --file set the method's samples, which --dry-run can price")
    if "samples" not in method.options and not is_auto(method):
        raise OptionError(f"--budget sets the number of samples, and {method.label} draws none")


def fit_samples(lm: "LanguageModel", prompt: "Source", method: "MethodSpec", budget: str | None, question: "Question") -> "MethodSpec":
    """The method with the samples that the budget pays for; the method itself without a budget, and with unit=auto."""
    from noiser.attribution.budget import fit_budget

    return method if budget is None or is_auto(method) else fit_budget(lm, prompt, method, budget, question)


def forecast(
    lm: "LanguageModel", prompt: "Source", method: "MethodSpec", budget: str | None, question: "Question", progress: "PromptProgress"
) -> None:
    """Tell somebody who watches how many tokens a long prompt takes, with unit=auto at most. Short prompts need no estimate."""
    from noiser.attribution.budget import parse_budget
    from noiser.attribution.estimate import count_tokens

    if not progress.is_terminal or question.generate is not None or len(lm.prompt(prompt)) < FORECAST_TOKENS:
        return
    if not is_auto(method):
        progress.expect(count_tokens(lm, prompt, method, question))
    elif budget is not None and not parse_budget(budget)[1]:
        progress.expect(int(parse_budget(budget)[0]))


def say_recommended(
    lm: "LanguageModel", result: "Attribution", prompt: "Source", method: "MethodSpec", question: "Question", progress: "PromptProgress"
) -> None:
    """Say which method is recommended, if it is another one, and what it would take here; or that none is."""
    import noiser.methods
    from noiser.attribution.estimate import count_tokens
    from noiser.cli.progress import duration

    if question.kind in ("a continuation", "a span"):
        progress.say("recommended: none for continuations, where no method that was tried beats recency (docs/faithfulness.md)", keep=True)
        return
    recommended, cost = noiser.methods.parse(RECOMMENDED), result.cost
    if (recommended.name, {**recommended.options, "seed": None}) == (method.name, {**method.options, "seed": None}):
        return
    tokens = count_tokens(lm, prompt, recommended, question)
    took = cost.forward_tokens + cost.backward_tokens
    seconds = f", about {duration(cost.seconds * tokens / took)}" if took else ""
    progress.say(f"recommended: --method {RECOMMENDED} ({tokens:,} token-forwards{seconds} here; docs/faithfulness.md says why)", keep=True)
