"""The errors of noiser. Each message says what was wanted, what came and what to do next.

The command line prints them without a traceback.

NoiserError
  OptionError            an unknown method or option, or a value outside its range
    MissingExtraError    a package that an optional feature needs is not installed
  ModelError             a model that cannot be found, read, trusted or explained
    ModelFailedError     a model that raised an exception of its own on a prompt
  PromptError            a prompt or target that the model cannot take
  NonFiniteError         NaN or infinity in the logits
  DeviceMemoryError      one row does not fit into the memory of the device
  TimeLimitError         a sample took longer than its time limit
  RunError               the folder of a run that cannot be used
  JudgeError             a judge that gave no reply
  ForeignError           a method or metric of another package that failed
Stopped                  not an error: the user stops the computation
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

EXTRAS = {
    "data": ("datasets",),
    "devices": ("accelerate",),
    "gguf": ("gguf",),
    "inseq": ("inseq",),
    "judge": ("openai",),
    "llama": ("xllamacpp", "openai"),
    "parquet": ("pyarrow",),
    "peft": ("peft",),
    "plots": ("matplotlib",),
    "ray": ("ray",),
    "served": ("openai",),
    "shapley": ("shapiq",),
    "units": ("sentencex", "nltk"),
    "web": ("starlette", "uvicorn"),
}
"""The optional features, as `pip install 'noiser[plots]'` names them, and the modules that each needs."""


class NoiserError(Exception):
    """Base of every error that noiser raises on purpose."""


class OptionError(NoiserError):
    """An unknown method or option, or a value outside its range."""


class MissingExtraError(OptionError):
    """A package that an optional feature needs is not installed. The message says what to install."""


class ModelError(NoiserError):
    """A model that cannot be found, read, trusted or explained."""


class ModelFailedError(ModelError):
    """The model raised an exception of its own, kept as the cause. Only the prompts that it ran on fail."""


class PromptError(NoiserError):
    """A prompt or target that the model cannot take: no tokens, too many tokens, or no valid Unicode."""


class NonFiniteError(NoiserError):
    """The logits of the model hold NaN or infinity, so there is nothing to score."""


class DeviceMemoryError(NoiserError):
    """Even one row does not fit into the memory of the device."""


class TimeLimitError(NoiserError):
    """A sample took longer than its time limit."""


class RunError(NoiserError):
    """The folder of a run does not fit the request, or cannot be read or written."""


class JudgeError(NoiserError):
    """A judge gave no reply to a question within its time limit and retries."""


class ForeignError(NoiserError):
    """A method or metric raised an exception of its own, kept as the cause, or returned a wrong result. Only one sample fails."""


class Stopped(Exception):  # noqa: N818  (it is no error: the user wants the computation to end)
    """Raised by a progress callback of the engine, to end the computation after the current batch, or by `checkpoint`."""


_check: ContextVar[Callable[[], None] | None] = ContextVar("noiser_check", default=None)


@contextmanager
def cancellable(check: Callable[[], None]) -> Iterator[None]:
    """Inside, every `checkpoint()` in this thread calls `check`, which raises Stopped to end the computation."""
    previous = _check.set(check)
    try:
        yield
    finally:
        _check.reset(previous)


def checkpoint() -> None:
    """Raises Stopped if the computation was cancelled.

    Every loop that runs for more than a moment without the model calls it. Outside `cancellable` it does nothing.
    """
    check = _check.get()
    if check is not None:
        check()


def require_extra(extra: str, feature: str) -> None:
    """Check that the packages of an optional feature are installed, without importing them.

    extra    a key of `EXTRAS`
    feature  what needs it, the subject of the error's sentence: "a figure"

    Raises MissingExtraError with the command that installs them.
    """
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        raise MissingExtraError(f"{feature} needs {' and '.join(missing)}. Type: pip install 'noiser[{extra}]'")
