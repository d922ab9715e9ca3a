"""One case: explain a prompt's target, keep its highest words, and ask judges whether these are enough."""

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
    """Is the explanation enough for a judge to find the answer, shown only the words with the highest scores?

    prompt   text, token ids, a Prompt or a chat
    target   the answer: a word without its leading space, which is put before it unless the prompt ends in one; or an id, or ids.
             The model's own next token by default. Several tokens are explained as a whole.
    options  of the method; its `seed` is the one below where it has one and none is given here
    judges   whom to ask: `local`, `local:MODEL`, `openai:MODEL`, `llama:GGUF`, or a Judge of your own
    how      where an `openai:` judge is, what becomes of its replies, how many calls at a time
    share    of the words that are kept, in [0, 1]; rounded up, at least one
    forms, variant, words, checks   as the metric `answerability` has them
    seed     of the words and the order that are drawn at random

    A judge that gave no reply is in the case with its status. Raises OptionError for what does not exist or fit, RunError where
    a judge cannot be asked, and what `attribute` raises.
    """
    asked = chosen_judges(judges, [METRIC], how or JudgeConfig())
    for judge in asked:  # before the model works for nothing
        judge.check()
    read = lm.prompt(prompt)
    explained = attribute(lm, read, method, answer_ids(lm, read, target), **_seeded(method, seed, options or {}))
    example = Example(read, target=explained.target.token_ids)
    given = {"share": share, "forms": forms, "variant": variant, "words": words, "checks": checks, "seed": seed}
    found = evaluate(lm, [example], {method: [explained]}, {METRIC: given}, controls=(), seed=seed, judges=asked)
    rulings = tuple(_ruling(judge, record) for judge, record in zip(asked, found.records, strict=True))
    return Case(explained, found.gauges[0].options, rulings)


def answer_ids(lm: LanguageModel, prompt: Prompt, target: TokensLike | None) -> TokensLike | None:
    """The tokens of a word as it follows the prompt: with a space before it, unless the prompt ends in one or is a chat, whose
    answer begins a text of its own. Ids are taken as they are. Raises OptionError for a blank word."""
    if not isinstance(target, str):
        return target
    word = target.strip()
    if not word:
        raise OptionError(f"the target is a word; got {target!r}")
    return lm.tokens.ids(word if prompt.turns or prompt.text[-1:].isspace() else f" {word}")


def _seeded(method: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**({"seed": seed} if "seed" in noiser.methods.find(method).options else {}), **options}


def _ruling(judge: Judge, record: Record) -> Ruling:
    return Ruling(judge.name, record.status, record.message, record.steps[0] if record.steps else {})
