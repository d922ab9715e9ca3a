"""Can a method be believed at all? Checks whose answer is known, on the model at hand and on models built by hand."""

from collections.abc import Callable, Sequence
from typing import Any

from noiser.errors import DeviceMemoryError, ModelError, NoiserError, PromptError
from noiser.evaluation.plan import Chosen, entrants
from noiser.lm.memory import memory_told_apart
from noiser.lm.runner import LanguageModel
from noiser.sanity.checks import CHECKS, Subject, checked_prompts
from noiser.verdicts import Checkup, Verdict

__all__ = ["check"]
DEFAULT_METHODS = ("noiser", "occlusion", "integrated_gradients")
PROMPTS = ("Paris is the capital of", "My sister plays the violin and the", "In winter the lake is covered with", "The opposite of hot is")


def check(
    lm: LanguageModel,
    methods: Chosen = DEFAULT_METHODS,
    *,
    prompts: Sequence[Any] = PROMPTS,
    seed: int = 0,
    on_method: Callable[[str], None] | None = None,
) -> Checkup:
    """Do these methods pass the checks that any attribution has to pass, on this model?

    methods    as for `evaluate`: names, or names with options; methods of your own once they are registered.
    prompts    to run the model at hand on: at least two, of at least three tokens.
    seed       of the methods, and of what the checks draw themselves.
    on_method  called with each method's name when it is done.

    A check that a method or model does not allow (attention weights that cannot be had) is `not applicable`, and says why.
    Raises OptionError for what does not exist or fit. Returns a Checkup: `print` it, or read `.verdicts`.
    """
    chosen = entrants(methods, (), seed, 0)
    tokenised = checked_prompts(lm, prompts)
    shared: dict[str, Any] = {}
    verdicts: list[Verdict] = []
    for each in chosen:
        subject = Subject(lm, tokenised, each.contender.method, each.contender.options, seed, shared)
        verdicts += [_verdict(name, each.contender.label, subject) for name in CHECKS]
        if on_method is not None:
            on_method(each.contender.label)
    wanted = {name: sentence for name, (sentence, _) in CHECKS.items()}
    return Checkup(lm.name, lm.revision, wanted, tuple(each.contender.label for each in chosen), tuple(verdicts))


def _verdict(name: str, label: str, subject: Subject) -> Verdict:
    """A model that does not allow a check makes it not applicable; a method that breaks down in it fails it."""

    try:
        with memory_told_apart():
            figure, good, said = CHECKS[name][1](subject)
    except (ModelError, DeviceMemoryError, PromptError) as error:
        return Verdict(name, label, "not applicable", None, str(error))
    except NoiserError as error:
        return Verdict(name, label, "fail", None, str(error))
    except Exception as error:  # noqa: BLE001  (a method of somebody's own may raise anything, and then has failed)
        return Verdict(name, label, "fail", None, f"{type(error).__name__}: {error}")
    return Verdict(name, label, "pass" if good else "fail", float(figure), said)
