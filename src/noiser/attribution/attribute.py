"""The main entry point: a model, a prompt and a method in, an Attribution out."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import noiser.methods
from noiser.attribution.budget import fit_budget
from noiser.attribution.explain import Failure, as_question, attribute_each
from noiser.attribution.refine import refine
from noiser.errors import OptionError
from noiser.lm.chat import is_chat
from noiser.lm.following import TokensLike
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.target import Question, check_token_ids
from noiser.lm.tokenizer import Source
from noiser.registry import MethodSpec
from noiser.results.attribution import Attribution
from noiser.text.prompt import Prompt


def attribute(
    lm: LanguageModel,
    prompt: Source,
    method: str | MethodSpec = "noiser",
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
    budget: int | str | None = None,
    **options: Any,
) -> Attribution:
    """Which tokens of `prompt` made the model predict `target`?

    `prompt` is text, token ids, a Prompt, or a chat: a list of {"role": ..., "content": ...}. `method` is a name, which may carry
    options (`noiser:bound=none+samples=20`), or the result of `noiser.methods.parse`. What is explained:

    target        the next token, as text with its leading space or as an id; the model's own prediction by default. Several
                  tokens (text or ids) are explained as a whole. A function from the next token's logits [vocab] to a scalar is
                  explained too. A `noiser.lm.target.Question` stands for this and the six arguments below.
    foil          what the target is compared with: why the target and not the foil?
    continuation  a text or ids that follow the prompt: one row of scores for each of its tokens, attributed to all tokens before.
    generate      the same for N tokens that the model generates greedily.
    span          (start, stop): these tokens of the continuation as a whole, attributed to all tokens before them.
    explain       the same for exact words of the continuation: the tokens that cover them.
    quantity      `prob` (the default) or `log_prob`. Of several tokens as a whole: the joint probability, its logarithm (the
                  default for a span), or `mean_prob`. With a foil: the difference in `prob` or the `log_odds`. Of one next
                  token also `hellinger` or `jsd`: how far the whole distribution moves, whichever token it moves to.

    spans         names for parts of the prompt, `[{"name": ..., "start": ..., "stop": ...}]`; documents: sources that stand before it,
                  `[{"title": ..., "text": ...}]`. See `LanguageModel.prompt`, `unit="span"` and `Attribution.by("span")`.

    budget        token-forwards (50000) or a time (`30s`): as many samples as it pays for, see `noiser.fit_budget`; with `unit="auto"`
                  scores as fine as it pays for, see `noiser.attribution.refine`.

    `options` are the method's, `seed` among them. Raises PromptError, OptionError, ModelError, NonFiniteError or
    DeviceMemoryError. The model is never changed.
    """
    check_language_model(lm)
    spec = noiser.methods.parse(method, options)
    question = as_question(target, foil, continuation, generate, span, quantity, explain)
    check_token_ids(lm.tokens, question)
    if spans is not None or documents is not None:
        prompt = lm.prompt(prompt, spans, documents)
    if spec.options.get("unit") == "auto" and budget is not None:
        return refine(lm, prompt, spec, question, budget)
    if budget is not None:
        spec = fit_budget(lm, prompt, spec, budget, question)
    (result,) = attribute_each(lm, [(prompt, question)], spec, "raise")
    assert isinstance(result, Attribution)
    return result


def attribute_many(
    lm: LanguageModel,
    prompts: Iterable[Source],
    method: str | MethodSpec = "noiser",
    target: TokensLike | Callable[..., Any] | Question | None = None,
    *,
    errors: Literal["raise", "return"] = "raise",
    foil: TokensLike | None = None,
    continuation: TokensLike | None = None,
    generate: int | None = None,
    span: tuple[int, int] | None = None,
    quantity: str | None = None,
    explain: str | None = None,
    **options: Any,
) -> Iterator[Attribution | Failure]:
    """`attribute` for many prompts, in their order. Rows of different prompts share batches; each result is yielded once it is ready.

    Each result is equal to that of the prompt alone. A prompt that fails raises when its turn comes; with `errors="return"` it
    yields a Failure. The other prompts are not affected.
    """
    check_language_model(lm)
    if isinstance(prompts, str | Prompt) or is_chat(prompts):
        kind = "a chat" if is_chat(prompts) else "one prompt"
        raise OptionError(f"attribute_many takes a list of prompts; got {kind}: put it into a list, or call attribute")
    if errors not in ("raise", "return"):
        raise OptionError(f"errors must be raise or return; got {errors!r}")
    spec = noiser.methods.parse(method, options)
    question = as_question(target, foil, continuation, generate, span, quantity, explain)
    check_token_ids(lm.tokens, question)
    return attribute_each(lm, ((prompt, question) for prompt in prompts), spec, errors)
