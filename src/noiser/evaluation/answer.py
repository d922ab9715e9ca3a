"""One case: explain a prompt's target, keep the words with the highest scores, and ask judges whether they are enough."""

from collections.abc import Mapping, Sequence
from typing import Any

import noiser.methods
from noiser.attribution.attribute import attribute
from noiser.evaluation import evaluate
from noiser.evaluation.spec import select_judges
from noiser.judges.protocol import LOCAL, Judge, JudgeConfig
from noiser.lm.following import TokensLike, follow_word
from noiser.lm.model import LanguageModel, check_language_model
from noiser.lm.tokenizer import Source
from noiser.registry import MethodSpec
from noiser.results.answer_case import Case, Ruling
from noiser.results.records import Example
from noiser.text.prompt import Prompt

METRIC = "answerability"


def answer(
    lm: LanguageModel,
    prompt: Source,
    target: TokensLike | None = None,
    method: str | MethodSpec = "noiser",
    options: Mapping[str, Any] | None = None,
    *,
    judges: Sequence[str | Judge] = (LOCAL,),
    how: JudgeConfig | None = None,
    share: float = 0.5,
    forms: str = "top1,top5",
    variant: str = "paper",
    words: str = "unicode",
    checks: bool = True,
    seed: int = 0,
) -> Case:
    """Is the explanation enough for a judge to find the answer? The judge sees only the words with the highest scores.

    prompt   text, token ids, a Prompt or a chat.
    target   the answer: a word without its leading space, an id, or ids. A space is put before the word unless the prompt ends in
             one, or is a chat whose answer begins here. The default is the model's own next token. Several tokens are explained as a whole.
    method   a name, which may carry options (`noiser:steps=5`), or the result of `noiser.methods.parse`.
    options  options of the method. Its `seed` is the one below unless it is set here.
    judges   the judges to ask: `local`, `local:MODEL`, `openai:MODEL`, `llama:GGUF`, or a Judge object.
    how      the address of an `openai:` judge, its cache and its limits.
    share    the share of the words that is kept, in [0, 1]; rounded up, at least one word.
    forms, variant, words, checks   options of the metric `answerability`.
    seed     the key of the words and the order that are drawn at random.

    A judge that gave no reply is in the case with its status. Raises OptionError for arguments that do not exist or do not fit,
    RunError if a judge cannot be asked, and the errors of `attribute`.
    """
    check_language_model(lm)
    spec = noiser.methods.parse(method, options, seed=seed)
    asked = select_judges(judges, [METRIC], how or JudgeConfig())
    for judge in asked:  # before the model does work that would be lost
        judge.check()
    tokens = lm.prompt(prompt)
    attribution = attribute(lm, tokens, spec, answer_ids(lm, tokens, target))
    example = Example(tokens, target=attribution.target.token_ids)
    metric = {"share": share, "forms": forms, "variant": variant, "words": words, "checks": checks, "seed": seed}
    evaluation = evaluate(lm, [example], {spec.label: [attribution]}, {METRIC: metric}, controls=(), seed=seed, judges=asked)
    rulings = tuple(
        Ruling(judge.name, record.status, record.message, record.steps[0] if record.steps else {})
        for judge, record in zip(asked, evaluation.records, strict=True)
    )
    return Case(attribution, evaluation.metrics[0].options, rulings)


def answer_ids(lm: LanguageModel, prompt: Prompt, target: TokensLike | None) -> TokensLike | None:
    """The tokens of a word as it follows the prompt, see `noiser.lm.following.follow_word`. Ids are returned as they are.

    Raises OptionError for a blank word.
    """
    return follow_word(lm.tokens, prompt, target).ids if isinstance(target, str) else target
