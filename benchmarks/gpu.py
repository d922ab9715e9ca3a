"""Noiser and every method on one GPU, in under five minutes: random weights of the real shapes, bfloat16.

python -m benchmarks.gpu                                  # Qwen2-0.5B's shape, then Llama-3-8B's
python -m benchmarks.gpu --shapes tiny --device cpu       # the same in miniature, to try the script

Only speed is measured: random weights say nothing about scores, and they flip at other scales than trained ones, so searches are given
with their token-forwards. Each part prints its line as soon as it is measured. Medians of `--repeats` after one call that is not counted.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from tests.conftest import byte_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

import noiser
from benchmarks.plain import embed, released_evaluation
from benchmarks.speed import STEPS, spread
from noiser.methods.noiser.noise import official_noise

IDS = 250
"""Tokens are drawn below this number: those of the byte tokenizer."""
SHAPES: dict[str, Callable[[], Any]] = {
    "qwen2-0.5b": lambda: Qwen2Config(
        hidden_size=896, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, intermediate_size=4864, vocab_size=151_936,
        tie_word_embeddings=True,
    ),
    "llama-3-8b": lambda: LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14_336, vocab_size=128_256,
    ),
    "tiny": lambda: LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128, vocab_size=300
    ),
}  # fmt: skip
PARAMETERS = {"qwen2-0.5b": 494e6, "llama-3-8b": 8.03e9, "tiny": 0.1e6}
"""What the shape has to have, within 2 % (of `tiny` only the order)."""
METHODS = (
    "noiser", "noiser:bound=rms+scale=4+samples=3", "noiser:bound=rms", "occlusion", "lime", "shapley:samples=200", "input_x_gradient",
    "integrated_gradients:steps=50", "gradient_shap", "deeplift", "sequential_integrated_gradients:steps=16", "last_attention",
    "attention_rollout",
)  # fmt: skip
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "RTX 4090": 165e12}
"""Floating-point operations a second of dense bfloat16 products, from the makers' data sheets."""


def load(shape: str, device: str) -> noiser.LanguageModel:
    """A model of the shape with random weights. Raises AssertionError if it has another size."""
    torch.manual_seed(0)
    config = SHAPES[shape]()
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    size = sum(parameter.numel() for parameter in model.parameters())
    assert shape == "tiny" or abs(size / PARAMETERS[shape] - 1) < 0.02, f"{shape} has {size:,} parameters"
    return noiser.LanguageModel(model, byte_tokenizer(), name=shape, revision="random")


def prompt(length: int, seed: int) -> tuple[int, ...]:
    """Ids at random."""
    return tuple(int(token) for token in np.random.default_rng(seed).integers(10, IDS, length))


def seconds(lm: noiser.LanguageModel, work: Callable[[], Any]) -> float:
    """How long the work takes, with all that the device still has to do."""
    _synchronize(lm)
    begin = time.perf_counter()
    work()
    _synchronize(lm)
    return time.perf_counter() - begin


def _synchronize(lm: noiser.LanguageModel) -> None:
    if lm.device.type == "cuda":
        torch.cuda.synchronize()


def against_the_loop(lm: noiser.LanguageModel, length: int, repeats: int) -> Iterator[str]:
    """Noiser against the released loop, whose time is that of T x 11 of its evaluations; six of them are timed."""
    ids = prompt(length, 0)
    noise = official_noise(10, lm.model.config.hidden_size, None).to(lm.device)
    embeds = embed(lm.model, ids) if lm.device.type == "cpu" else lm.embeddings(ids)[None].detach()
    evaluations = [seconds(lm, lambda n=n: released_evaluation(lm.model, embeds, n % length, 0.5, noise)) for n in range(7)][1:]
    loop = statistics.median(evaluations) * length * (STEPS + 1)
    for method in METHODS[:3]:
        taken, cost = measured(lm, ids, method, repeats)
        times = loop / statistics.median(taken)
        yield f"| {length} | {method} | {times:.0f} | {loop:.1f} | {spread(taken, '.3f')} | {cost.forward_tokens:,} |"


def measured(lm: noiser.LanguageModel, ids: tuple[int, ...], method: str, repeats: int) -> tuple[list[float], Any]:
    """The seconds of each repetition after the first, and the cost."""
    cost = noiser.attribute(lm, ids, method).cost
    return [seconds(lm, lambda: noiser.attribute(lm, ids, method)) for _ in range(repeats)], cost


def many(lm: noiser.LanguageModel, count: int) -> Iterator[str]:
    """Prompts a second of `attribute_many`, on lengths as Known's answered prompts have them (6 to 23 tokens, median 10)."""
    lengths = np.random.default_rng(1).gamma(9.0, 1.15, count).clip(6, 23).astype(int)
    prompts = [prompt(int(length), seed) for seed, length in enumerate(lengths)]
    peak = next((flops for name, flops in PEAKS.items() if name in device_name(lm)), None)
    weights = sum(parameter.numel() for parameter in lm.model.parameters())
    for method in METHODS[:3]:
        list(noiser.attribute_many(lm, prompts[:8], method))
        if lm.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found: list[Any] = []
        took = seconds(lm, lambda found=found, method=method: found.extend(noiser.attribute_many(lm, prompts, method)))
        tokens = sum(each.cost.forward_tokens for each in found)
        share = f"{2 * weights * tokens / took / peak:.0%}" if peak else "not known"
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if lm.device.type == "cuda" else "not measured"
        yield f"| {method} | {count / took:.1f} | {tokens / took:,.0f} | {share} | {memory} |"


def metrics(lm: noiser.LanguageModel) -> Iterator[str]:
    """Seconds of the soft metrics with 16 masks on four prompts of ten tokens, for one method."""
    prompts = [prompt(10, seed) for seed in range(4)]
    for metric in ("soft_ns", "soft_nc"):
        work: Callable[[], Any] = lambda metric=metric: noiser.evaluate(lm, prompts, ["occlusion"], [metric], controls=[], ladder=False)  # noqa: E731
        work()
        yield f"| {metric} | {seconds(lm, work):.2f} |"


def device_name(lm: noiser.LanguageModel) -> str:
    """The chip's name."""
    return torch.cuda.get_device_name() if lm.device.type == "cuda" else "CPU"


def main() -> None:
    """Print the tables of each shape, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", default=["qwen2-0.5b", "llama-3-8b"], choices=tuple(SHAPES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=256, help="prompts of attribute_many")
    options: Any = parser.parse_args()
    for shape in options.shapes:
        lm = load(shape, options.device)
        print(f"\n{shape}, bfloat16, {device_name(lm)}, torch {torch.__version__}\n")
        print("| T | method | times faster than the loop | loop, s | seconds | token-forwards |\n|---|---|---|---|---|---|")
        for length in (10, 42):
            print(*against_the_loop(lm, length, options.repeats), sep="\n", flush=True)
        print("\n| attribute_many | prompts a second | tokens a second | share of peak | peak GiB |\n|---|---|---|---|---|")
        for line in many(lm, options.prompts):
            print(line, flush=True)
        print("\n| method, T = 10 | seconds | tokens forward, backward |\n|---|---|---|")
        for method in METHODS[3:]:
            taken, cost = measured(lm, prompt(10, 0), method, options.repeats)
            print(f"| {method} | {spread(taken, '.3f')} | {cost.forward_tokens:,}, {cost.backward_tokens:,} |", flush=True)
        print("\n| metric, 16 masks, 4 prompts of 10 tokens | seconds |\n|---|---|")
        print(*metrics(lm), sep="\n", flush=True)
        del lm


if __name__ == "__main__":
    main()
