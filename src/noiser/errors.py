"""What can go wrong, said so that one knows what to do next. The command line prints these without a traceback."""


class NoiserError(Exception):
    """Base of every error that noiser raises on purpose."""


class OptionError(NoiserError):
    """An unknown method or option, or a value outside its range."""


class ModelError(NoiserError):
    """A model that cannot be found, read, trusted or explained."""


class PromptError(NoiserError):
    """A prompt or target that the model cannot take: no tokens, too many, not valid Unicode."""


class NonFiniteError(NoiserError):
    """The model's logits hold NaN or infinity: there is nothing to score."""


class DeviceMemoryError(NoiserError):
    """Even one row does not fit into the device's memory."""


class TimeLimitError(NoiserError):
    """A sample took longer than it was given."""


class RunError(NoiserError):
    """A run's folder that does not fit what is asked for, cannot be read or cannot be written."""


class JudgeError(NoiserError):
    """A judge that gave no reply to a question, asked as often as its budget allows."""


class ForeignError(NoiserError):
    """A method or metric raised an exception of its own, kept as the cause, or returned what it may not: one sample's failure."""


class Stopped(Exception):  # noqa: N818  (it is no error: whoever watches the engine wants it to end)
    """Raised by whoever watches the engine (`LanguageModel.progress_callback`), to end what it is doing after the batch at hand."""
