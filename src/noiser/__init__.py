"""Why did the model say that? Explain a language model's prediction by the input tokens that caused it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from noiser._version import __version__

if TYPE_CHECKING:
    from noiser.attribution.attribute import attribute, attribute_many
    from noiser.attribution.budget import fit_budget
    from noiser.attribution.cite import cite
    from noiser.attribution.compare import compare
    from noiser.attribution.curves import with_curves
    from noiser.attribution.estimate import CostEstimate, estimate
    from noiser.attribution.explain import Failure
    from noiser.attribution.interactions import interactions
    from noiser.errors import NoiserError
    from noiser.evaluation import evaluate
    from noiser.evaluation.answer import answer
    from noiser.evaluation.metric_checks import check_metrics
    from noiser.evaluation.sanity import check
    from noiser.judges.protocol import JudgeConfig, JudgeHow
    from noiser.lm.load import load
    from noiser.lm.model import LanguageModel
    from noiser.methods import METHODS
    from noiser.metrics import METRICS
    from noiser.results.answer_case import Case
    from noiser.results.attribution import Attribution, Comparison
    from noiser.results.evaluation import Evaluation
    from noiser.results.interactions import Interactions
    from noiser.results.records import Example
    from noiser.results.sanity import Checkup, MetricCheckup
    from noiser.results.saved import FailedPrompt, read

__all__ = [
    "METHODS",
    "METRICS",
    "Attribution",
    "Case",
    "Checkup",
    "Comparison",
    "CostEstimate",
    "Evaluation",
    "Example",
    "FailedPrompt",
    "Failure",
    "Interactions",
    "JudgeConfig",
    "JudgeHow",
    "LanguageModel",
    "MetricCheckup",
    "NoiserError",
    "__version__",
    "answer",
    "attribute",
    "attribute_many",
    "check",
    "check_metrics",
    "cite",
    "compare",
    "estimate",
    "evaluate",
    "fit_budget",
    "interactions",
    "load",
    "read",
    "with_curves",
]


_HOME = {
    "METHODS": "noiser.methods",
    "METRICS": "noiser.metrics",
    "Attribution": "noiser.results.attribution",
    "Case": "noiser.results.answer_case",
    "Checkup": "noiser.results.sanity",
    "Comparison": "noiser.results.attribution",
    "CostEstimate": "noiser.attribution.estimate",
    "Evaluation": "noiser.results.evaluation",
    "Example": "noiser.results.records",
    "FailedPrompt": "noiser.results.saved",
    "Failure": "noiser.attribution.explain",
    "Interactions": "noiser.results.interactions",
    "JudgeConfig": "noiser.judges.protocol",
    "JudgeHow": "noiser.judges.protocol",
    "LanguageModel": "noiser.lm.model",
    "MetricCheckup": "noiser.results.sanity",
    "NoiserError": "noiser.errors",
    "answer": "noiser.evaluation.answer",
    "attribute": "noiser.attribution.attribute",
    "attribute_many": "noiser.attribution.attribute",
    "check": "noiser.evaluation.sanity",
    "check_metrics": "noiser.evaluation.metric_checks",
    "cite": "noiser.attribution.cite",
    "compare": "noiser.attribution.compare",
    "estimate": "noiser.attribution.estimate",
    "fit_budget": "noiser.attribution.budget",
    "evaluate": "noiser.evaluation",
    "interactions": "noiser.attribution.interactions",
    "load": "noiser.lm.load",
    "read": "noiser.results.saved",
    "with_curves": "noiser.attribution.curves",
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
