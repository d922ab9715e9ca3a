"""Answer one case: explain a prompt's target, keep its highest words, and ask judges whether they are enough."""

from collections.abc import Mapping, Sequence
from typing import Any

import noiser.methods
from noiser.attribution.attribute import attribute
from noiser.errors import OptionError
from noiser.evaluation import evaluate
from noiser.evaluation.spec import chosen_judges
from noiser.judges.protocol import LOCAL, Judge, JudgeConfig
from noiser.lm.model import LanguageModel
from noiser.lm.target import TokensLike
from noiser.lm.tokenizer import Source
from noiser.results.answer_case import Case, Ruling
from noiser.results.records import Example, Record
from noiser.text.prompt import Prompt

METRIC = "answerability"


def answer(
    lm: LanguageModel,
    prompt: Source,
    target: TokensLike | None = None,
    method: str = "noiser",
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
    """Find out whether judges name the target when they see only the words with the highest scores.

    prompt   text, token ids, a Prompt or a chat
    target   the answer: a word without its leading space (the space is added unless the prompt ends in one), an id, or ids. Default:
             the model's own next token. Several tokens are explained as a whole.
    options  of the method. Its `seed` is the one below unless it is set here.
    judges   `local`, `local:MODEL`, `openai:MODEL`, `llama:GGUF`, or a Judge of your own
    how      the address of an `openai:` judge, the use of the reply cache, the number of calls at a time
    share    of the words that are kept, in [0, 1]; rounded up, at least one word
    forms, variant, words, checks   as in the metric `answerability`
    seed     of everything drawn at random: the order of ties, random words, shuffled words

    A judge that gives no reply is in the case with its status. Raises OptionError for a value that does not exist or fit, RunError if
    a judge cannot be asked, and what `attribute` raises.
    """
    opened = chosen_judges(judges, [METRIC], how or JudgeConfig())
    for judge in opened:  # before the model computes anything
        judge.check()
    parsed = lm.prompt(prompt)
    attribution = attribute(lm, parsed, method, answer_ids(lm, parsed, target), **_with_seed(method, seed, options or {}))
    example = Example(parsed, target=attribution.target.token_ids)
    metric_options = {"share": share, "forms": forms, "variant": variant, "words": words, "checks": checks, "seed": seed}
    evaluation = evaluate(lm, [example], {method: [attribution]}, {METRIC: metric_options}, controls=(), seed=seed, judges=opened)
    rulings = tuple(_ruling(judge, record) for judge, record in zip(opened, evaluation.records, strict=True))
    return Case(attribution, evaluation.gauges[0].options, rulings)


def answer_ids(lm: LanguageModel, prompt: Prompt, target: TokensLike | None) -> TokensLike | None:
    """Return the tokens of a word that follows the prompt. Ids are returned as they are. Raises OptionError for a blank word.

    A space goes before the word, unless the prompt ends in one or is a chat: a chat's answer begins a text of its own.
    """
    if not isinstance(target, str):
        return target
    word = target.strip()
    if not word:
        raise OptionError(f"the target is a word; got {target!r}")
    return lm.tokens.ids(word if prompt.turns or prompt.text[-1:].isspace() else f" {word}")


def _with_seed(method: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**({"seed": seed} if "seed" in noiser.methods.find(method).options else {}), **options}


def _ruling(judge: Judge, record: Record) -> Ruling:
    return Ruling(judge.name, record.status, record.message, record.steps[0] if record.steps else {})
