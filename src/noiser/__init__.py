"""Why did the model say that? Explain a language model's prediction by the input tokens that caused it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiser.answering import answer
    from noiser.attribution import Failure, attribute, attribute_many
    from noiser.cases import Case
    from noiser.comparison import compare
    from noiser.errors import NoiserError
    from noiser.evaluation import evaluate
    from noiser.evidence import Evaluation, Example
    from noiser.judging import JudgeHow
    from noiser.lm.load import load
    from noiser.lm.runner import LanguageModel
    from noiser.methods import METHODS
    from noiser.metrics import METRICS
    from noiser.removal import with_curves
    from noiser.sanity import check
    from noiser.types import Attribution, Comparison
    from noiser.verdicts import Checkup

__all__ = [
    "METHODS",
    "METRICS",
    "Attribution",
    "Case",
    "Checkup",
    "Comparison",
    "Evaluation",
    "Example",
    "Failure",
    "JudgeHow",
    "LanguageModel",
    "NoiserError",
    "answer",
    "attribute",
    "attribute_many",
    "check",
    "compare",
    "evaluate",
    "load",
    "with_curves",
]
__version__ = "0.1.0"

_HOME = {
    "METHODS": "noiser.methods",
    "METRICS": "noiser.metrics",
    "Attribution": "noiser.types",
    "Case": "noiser.cases",
    "Checkup": "noiser.verdicts",
    "Comparison": "noiser.types",
    "Evaluation": "noiser.evidence",
    "Example": "noiser.evidence",
    "Failure": "noiser.attribution",
    "JudgeHow": "noiser.judging",
    "LanguageModel": "noiser.lm.runner",
    "NoiserError": "noiser.errors",
    "answer": "noiser.answering",
    "attribute": "noiser.attribution",
    "attribute_many": "noiser.attribution",
    "check": "noiser.sanity",
    "compare": "noiser.comparison",
    "evaluate": "noiser.evaluation",
    "load": "noiser.lm.load",
    "with_curves": "noiser.removal",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: torch and transformers take seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'noiser' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
