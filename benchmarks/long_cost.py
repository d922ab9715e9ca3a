"""Time, token-forwards and peak memory of one attribution at 500, 2,000 and 8,000 tokens, beside the peak that was stated before.

    python -m benchmarks.long_cost                                   # default model; each length in a process of its own
    python -m benchmarks.long_cost --tokens 2000,32000 --shape llama-3-8b --dtype bfloat16 --device cuda     # random weights

The prompt is eight documents of filler and a question. `occlusion` removes one document at a time, so its rows are long.
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import torch

import noiser
from noiser.lm.devices import held_bytes, peak_bytes
from noiser.lm.memory import clean_bytes, gradient_bytes

WORDS = "the old bridge over a river of stone was built for the town and its mill by masons who came from hills in the north"
SHAPES: dict[str, dict[str, Any]] = {
    "qwen2-0.5b": {"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                   "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936, "max_position_embeddings": 32_768},
    "llama-3-8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                   "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256, "max_position_embeddings": 131_072},
}  # fmt: skip
METHODS = ("occlusion:unit=span", "input_x_gradient")


def load(shape: str, dtype: str, device: str) -> noiser.LanguageModel:
    """The default model, or one of this shape with random weights and the default model's tokenizer."""
    default = noiser.load(dtype=dtype, device=device) if not shape else noiser.load()
    if not shape:
        return default
    from transformers import AutoConfig, AutoModelForCausalLM

    values = dict(SHAPES[shape])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    return noiser.LanguageModel(model, default.tokenizer)


def documents(lm: noiser.LanguageModel, tokens: int, count: int) -> list[dict[str, str]]:
    """Documents of filler that have this many tokens together, or up to a tenth less."""
    words_each = int(0.9 * tokens / count)
    made, vocabulary = [], WORDS.split()
    for number in range(count):
        words = [vocabulary[(7 * number + 3 * place + place * place) % len(vocabulary)] for place in range(words_each)]
        sentences = [" ".join(words[start : start + 12]).capitalize() + "." for start in range(0, words_each, 12)]
        made.append(" ".join(sentences))
    whole = len(lm.tokenizer(" ".join(made))["input_ids"])
    share = min(1.0, (tokens - 20 * count - 20) / whole)
    return [{"title": f"Report {number + 1}", "text": text[: int(share * len(text))]} for number, text in enumerate(made)]


def measure(arguments: argparse.Namespace, tokens: int, method: str) -> dict[str, Any]:
    """One attribution in this process."""
    lm = load(arguments.shape, arguments.dtype, arguments.device)
    prompt = lm.prompt("Question: Who built the bridge? Answer: It was built by", documents=documents(lm, tokens, arguments.documents))
    lm.layout(prompt)  # the check of the model runs once and is remembered
    lm.clean([lm.prompt("All weights are read once.")])  # those of a file are in memory only from then on
    loaded = held_bytes(lm.devices)
    stated = noiser.estimate(lm, prompt, method).peak_bytes if "gradient" not in method else loaded + gradient_bytes(lm.model, len(prompt))
    begin = time.perf_counter()
    found = noiser.attribute(lm, prompt, method)
    seconds = time.perf_counter() - begin
    return {
        "tokens": len(prompt), "method": method, "seconds": seconds, "forward": found.cost.forward_tokens,
        "loaded": loaded, "clean": clean_bytes(lm.model, len(prompt)), "stated": stated, "peak": peak_bytes(lm.devices),
    }  # fmt: skip


def main() -> None:
    """Measure each length in a process of its own, because the peak of a process never falls; print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="500,2000,8000")
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--shape", default="", choices=["", *SHAPES])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--one", default="")
    arguments = parser.parse_args()
    if arguments.one:
        tokens, method = arguments.one.split(" ", 1)
        print(json.dumps(measure(arguments, int(tokens), method)))
        return
    rows = []
    for tokens in arguments.tokens.split(","):
        for method in arguments.methods.split(","):
            command = [sys.executable, "-m", "benchmarks.long_cost", *sys.argv[1:], "--one", f"{tokens} {method}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{tokens} tokens, {method}: {done.stderr.strip().splitlines()[-1]}", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(row, flush=True)
    print("| tokens | method | token-forwards | seconds | loaded | stated peak | measured peak |\n|" + " ---: |" * 7)
    for row in rows:
        held = " | ".join(f"{row[name] / 1e9:.2f} GB" for name in ("loaded", "stated", "peak"))
        print(f"| {row['tokens']:,} | `{row['method']}` | {row['forward']:,} | {row['seconds']:.0f} | {held} |")


if __name__ == "__main__":
    main()
