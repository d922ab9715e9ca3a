"""What each sentence of an answer rests on: its sources, scored by one method within one budget for each sentence."""

from dataclasses import replace
from typing import Any

import noiser.methods
from noiser.attribution.explain import attribute_each
from noiser.attribution.refine import refine
from noiser.errors import OptionError, PromptError
from noiser.lm.documents import read_documents
from noiser.lm.following import TokensLike, follow
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.target import Question
from noiser.lm.tokenizer import Source
from noiser.registry import MethodSpec
from noiser.results.attribution import Attribution
from noiser.results.statements import combined
from noiser.text.prompt import Prompt
from noiser.text.units import units

METHOD = "noiser:bound=rms+scale=4+samples=5+unit=auto"
"""Five draws, so that each source has a standard error that a confidence can be built on."""


def cite(
    lm: LanguageModel,
    prompt: Source,
    method: str | MethodSpec = METHOD,
    *,
    answer: TokensLike | None = None,
    generate: int | None = None,
    spans: Any = None,
    documents: Any = None,
    budget: int | str | None = None,
    **options: Any,
) -> Attribution:
    """Which sources does each sentence of an answer rest on?

    answer     the answer, as text or ids; generate: or how many tokens the model writes itself, greedily. One of the two.
    spans      names for parts of the prompt; documents: sources that stand before it; as in `noiser.attribute`.
    method     any whose unit is `span` or `auto`; one that draws has standard errors, which `noiser.citations` needs for confidences.
    budget     for each sentence, with `unit=auto`: token-forwards or a time. Default: three times what the sources alone take.

    Returns one Attribution with a target for each sentence: its tokens as a whole, in log-probability, attributed to the prompt's sources.
    Sentences before it stay as they are, and so does everything around the documents, if there are any. A prompt without named spans has
    its paragraphs as sources.

    Raises OptionError for a method with another unit, and what `attribute` raises.
    """
    check_language_model(lm)
    spec = noiser.methods.parse(method, options)
    unit = spec.options.get("unit")
    if unit not in ("span", "auto"):
        raise OptionError(f"cite scores sources: give the method unit=auto or unit=span; {spec.label} has {unit or 'no unit'}")
    if (answer is None) == (generate is None):
        raise OptionError("cite wants an answer, or how many tokens to generate" + ("" if answer is None else ", not both"))
    prompt = _sources_only(lm.prompt(prompt, spans, documents), documents)
    if unit == "span" and not prompt.spans:
        raise OptionError("unit=span scores named spans, and this prompt has none: give documents or spans, or a method with unit=auto")
    ids = _answer_ids(lm, prompt, answer, generate)
    questions = [Question(continuation=ids, span=span) for span in sentences(lm, prompt, ids)]
    return combined([_explained(lm, prompt, spec, question, budget) for question in questions])


def _sources_only(prompt: Prompt, documents: Any) -> Prompt:
    """The prompt with the documents as its only spans, if it has any: the question is no source of its answer."""
    if documents is None:
        return prompt
    titles = {document["title"] for document in read_documents(documents)}
    return replace(prompt, spans=tuple(span for span in prompt.spans if span.name in titles))


def sentences(lm: LanguageModel, prompt: Prompt, ids: tuple[int, ...]) -> list[tuple[int, int]]:
    """The sentences of an answer: the first token of each, and one past the last. A piece without a letter or digit joins the last one."""
    of = units(lm.tokens.extended(prompt, ids), "sentence").of[len(prompt) :]
    pieces: list[tuple[int | None, list[int]]] = []
    for place, unit in enumerate(of):
        if not pieces or unit not in (None, pieces[-1][0]):
            pieces.append((unit, []))
        pieces[-1][1].append(place)
    found: list[list[int]] = []
    for _, places in pieces:
        says_something = any(map(str.isalnum, lm.tokens.text([ids[place] for place in places])))
        found = [*found, places] if says_something or not found else [*found[:-1], found[-1] + places]
    return [(places[0], places[-1] + 1) for places in found]


def _answer_ids(lm: LanguageModel, prompt: Prompt, answer: TokensLike | None, generate: int | None) -> tuple[int, ...]:
    """The answer's tokens without the end token. Raises PromptError if nothing is left."""
    ids = lm.generate(prompt, generate) if generate is not None else follow(lm.tokens, prompt, answer or "").ids
    while ids and lm.tokens.is_special(ids[-1]):
        ids = ids[:-1]
    if not ids:
        raise PromptError("the answer is empty: the model ends it at once, or no text was given")
    return ids


def _explained(lm: LanguageModel, prompt: Prompt, spec: MethodSpec, question: Question, budget: int | str | None) -> Attribution:
    if spec.options["unit"] == "auto":
        return refine(lm, prompt, spec, question, budget)
    if budget is not None:
        raise OptionError("a budget is for unit=auto: with unit=span every source is scored once")
    (found,) = attribute_each(lm, [(prompt, question)], spec, "raise")
    assert isinstance(found, Attribution)
    return found
