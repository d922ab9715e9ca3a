"""Models with weights of 8 or 4 bits: which are refused, and what keeps the numbers of the others the same in every batch."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.quantizers.auto import AutoHfQuantizer

from noiser.errors import ModelError

LOGGER = "bitsandbytes.autograd._functions"
"""Where bitsandbytes says, for each layer of each batch, that 8-bit layers compute in float16."""
ROUNDED = "8-bit layers round activations as well as weights: scores hold that rounding, and gradients pass over it"


def check_quantization(config: Any, name: str) -> None:
    """Raises ModelError if a configuration names a kind of quantization that transformers does not know.

    transformers would warn, and read the numbers in the file as weights.
    """
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return
    settings = dict(quantization) if isinstance(quantization, Mapping) else quantization.to_dict()
    kind = settings.get("quant_method")
    by_bits = settings.get("load_in_4bit") or settings.get("load_in_8bit")
    if not by_bits and (kind is None or not AutoHfQuantizer.supports_quant_method({"quant_method": kind})):
        raise ModelError(
            f"{name} is quantized by {kind!r}, which this version of transformers does not know. Its weights would be read unscaled. "
            "Give the model that was quantized, or a GGUF file"
        )


def check_quantized(model: Any) -> tuple[str, ...]:
    """Check the layers of bitsandbytes in a loaded model. Returns warnings that belong to each of its results.

    Raises ModelError for 8-bit layers whose numbers depend on the other rows of a batch, and for 4-bit weights that an earlier
    forward pass on a CPU has rearranged.
    """
    has_8_bits = False
    for layer in model.modules():
        if type(layer).__name__ == "Linear8bitLt":
            _check_threshold(type(model).__name__, layer.state.threshold)
            has_8_bits = True
        if getattr(getattr(getattr(layer, "weight", None), "quant_state", None), "packing_format_for_cpu", False):
            raise ModelError(
                f"bitsandbytes has rearranged the 4-bit weights of this {type(model).__name__} for this CPU when it first ran. They are "
                "rounded to bfloat16, and their gradients are wrong. Load the model again, and give it to noiser.load before it runs"
            )
    return (ROUNDED,) if has_8_bits else ()


def _check_threshold(name: str, threshold: float) -> None:
    if threshold > 0:
        raise ModelError(
            f"{name} has 8-bit layers with llm_int8_threshold={threshold:g}. They look for large values in all rows of a batch, so a "
            "token's numbers depend on later tokens and on other prompts. Set it to 0.0, in BitsAndBytesConfig or in the "
            "quantization_config of config.json; or use 4 bits"
        )


@contextmanager
def stored_weights(modules: Iterable[Any]) -> Iterator[None]:
    """Inside the block, 4-bit layers of bitsandbytes compute with their weights as they are stored.

    On CPUs with AVX-512 BF16 the first pass without gradients would rearrange them for good: rounded to bfloat16, and with wrong
    gradients afterwards. The notes of 8-bit layers about float16 are not logged.
    """
    layers = [layer for layer in modules if vars(layer).get("support_avx512bf16_for_cpu")]
    logger, quiet = logging.getLogger(LOGGER), _News()
    try:
        for layer in layers:
            layer.support_avx512bf16_for_cpu = False
        logger.addFilter(quiet)
        yield
    finally:
        logger.removeFilter(quiet)
        for layer in layers:
            layer.support_avx512bf16_for_cpu = True


class _News(logging.Filter):
    """Lets everything pass but the note about float16."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "inputs will be cast" not in record.getMessage()
