"""Several methods, one prompt, the same tokens and target for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import noiser.methods
from noiser.attribution.attribute import attribute
from noiser.errors import NoiserError, OptionError, PromptError
from noiser.lm.model import LanguageModel
from noiser.lm.target import Question, TokensLike
from noiser.lm.tokenizer import Source
from noiser.results.attribution import Attribution, Comparison

DEFAULT = ("noiser", "occlusion", "integrated_gradients")


def compare(
    lm: LanguageModel,
    prompt: Source,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]] = DEFAULT,
    target: TokensLike | Callable[..., Any] | None = None,
    *,
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    on_method: Callable[[str], None] | None = None,
) -> Comparison:
    """What several methods say about the same prediction, and how far they agree.

    `methods` are names, or names with each one's options: {"noiser": {"samples": 20}, "lime": {}}. The rest is as for
    `attribute`; with `generate` the model continues the prompt once, and every method explains that continuation.

    A method that this model or machine refuses (attention weights that cannot be had, NaN, memory) is named in
    `failures` and costs the others nothing. Raises OptionError and PromptError, and what the last one refused for where
    none is left. `on_method` is called with the name of each method before it begins.
    """
    Question(target, foil, continuation, generate, span, quantity)
    options = checked(methods)
    prompt = lm.prompt(prompt)
    if generate is not None:
        first = attribute(lm, prompt, "uniform", generate=generate)
        continuation, generate = [token for own in first.targets for token in own.token_ids], None
    found: list[Attribution] = []
    failures: dict[str, str] = {}
    asked: dict[str, Any] = {"foil": foil, "continuation": continuation, "span": span, "quantity": quantity}
    for name, given in options.items():
        if on_method is not None:
            on_method(name)
        try:
            found.append(attribute(lm, prompt, name, target, **asked, **given))
        except PromptError:
            raise
        except NoiserError as error:
            failures[name] = str(error)
            if len(failures) == len(options):
                raise
    return Comparison(tuple(found), failures)


def checked(methods: Sequence[str] | Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every method with its options in full. Raises OptionError for one that does not exist, or is given twice."""
    if isinstance(methods, str):
        raise OptionError(f"methods is a sequence of names; got the single text {methods!r}")
    if len(set(methods)) < len(methods):
        raise OptionError(f"each method once; got {', '.join(methods)}")
    if not methods:
        raise OptionError("give at least one method to compare")
    given = methods if isinstance(methods, Mapping) else {name: {} for name in methods}
    return {name: noiser.methods.find(name).resolve(options or {}) for name, options in given.items()}
