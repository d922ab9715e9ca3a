"""Several methods on one prompt, with the same tokens and the same target for each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import noiser.methods
from noiser.attribution.attribute import attribute
from noiser.attribution.explain import as_question
from noiser.errors import NoiserError, PromptError
from noiser.lm.following import TokensLike
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.target import Question
from noiser.lm.tokenizer import Source
from noiser.registry import DEFAULT_METHODS, MethodSpec, Selection
from noiser.results.attribution import Attribution, Comparison


def compare(
    lm: LanguageModel,
    prompt: Source,
    methods: Selection[MethodSpec] = DEFAULT_METHODS,
    target: TokensLike | Callable[..., Any] | Question | None = None,
    *,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    explain: str | None = None,
    spans: Any = None,
    documents: Any = None,
    on_method: Callable[[str], None] | None = None,
) -> Comparison:
    """What several methods say about the same prediction, and how far they agree.

    `methods` are names, which may carry options: ["noiser", "noiser:bound=none"]. A mapping gives the options of each label:
    {"noiser": {"samples": 20}, "lime": {}}. Results of `noiser.methods.parse` are taken as they are. The other arguments are those
    of `attribute`. With `generate` the model continues the prompt once, and every method explains that continuation.

    A method that fails on this model or machine (no attention weights, NaN, memory) is listed in `failures`; the others are not
    affected. `on_method` is called with the label of each method before it starts.

    Raises OptionError and PromptError, and the error of the last method if all methods fail.
    """
    check_language_model(lm)
    question = as_question(target, foil, continuation, generate, span, quantity, explain)
    specs = noiser.methods.parse_all(methods)
    prompt = lm.prompt(prompt, spans, documents)
    if question.generate is not None:
        first = attribute(lm, prompt, "uniform", generate=question.generate)
        question = replace(question, generate=None, continuation=[token for row in first.targets for token in row.token_ids])
    attributions: list[Attribution] = []
    failures: dict[str, str] = {}
    for spec in specs:
        if on_method is not None:
            on_method(spec.label)
        try:
            attributions.append(attribute(lm, prompt, spec, question))
        except PromptError:
            raise
        except NoiserError as error:
            failures[spec.label] = str(error)
            if len(failures) == len(specs):
                raise
    return Comparison(tuple(attributions), failures)
