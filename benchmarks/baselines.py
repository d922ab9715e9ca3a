"""noiser's methods against Inseq's, on the default model in the same run: python -m benchmarks.baselines [method ...].

Each side has its own copy of the model in one process. They take turns on each prompt, with equal settings (steps, samples,
baseline). Peak memory is that of a process with only the one call, above its memory after loading. `--occlusion` compares
occlusion with T batched forward passes. `--continuation` compares ten generated tokens with the last of them alone.
"""

import argparse
import gc
import logging
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import torch

import noiser
from benchmarks.prompts import BY_LENGTH, drawn

COMMON: dict[str, Any] = {"baseline": "unk"}
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "input_x_gradient": ({}, {}),
    "integrated_gradients": ({**COMMON, "steps": 50}, {"n_steps": 50}),
    "gradient_shap": ({**COMMON, "samples": 5}, {"n_samples": 5}),
    "deeplift": (COMMON, {}),
    "sequential_integrated_gradients": ({**COMMON, "steps": 50}, {"n_steps": 50}),
    "sequential_integrated_gradients, adaptive": ({**COMMON, "tolerance": 0.2}, {"n_steps": 50}),
    "lime": ({**COMMON, "samples": 50, "keep": 0.7}, {"n_samples": 50}),
    "occlusion": (COMMON, {}),
    "attention": ({}, {}),
}
OUR_NAME = {"attention": "last_attention"}
"""Names that differ. A name with a comma is another setting of the same method."""
MIB = 1 << 20


def main() -> None:
    """Print one table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(SETTINGS), help=f"of {', '.join(SETTINGS)}")
    parser.add_argument("--length", default="10", choices=list(BY_LENGTH), help="about how many tokens")
    parser.add_argument("--prompts", type=int, default=4, help="how many of that length")
    parser.add_argument("--repeats", type=int, default=3, help="turns on each prompt")
    parser.add_argument("--memory", choices=["ours", "inseq"], help="only print the peak memory of one call of one method, in MiB")
    parser.add_argument("--occlusion", action="store_true", help="occlusion against T batched forward passes")
    parser.add_argument("--continuation", action="store_true", help="ten generated tokens against the last alone")
    parser.add_argument("--known", type=Path, metavar="FILE", help="draw the prompts from this file of Known: 9 to 11 tokens")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    prompts = list(BY_LENGTH[options.length][: options.prompts])
    if options.known:
        prompts = drawn(noiser.load(), "known", options.known, range(9, 12), options.prompts)
    if options.memory:
        print(peak(options.memory, options.methods[0], prompts[0]))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, T about {options.length}, {len(prompts)} prompts\n")
    if options.occlusion:
        occlusion(prompts, options.repeats)
    elif options.continuation:
        continuation(prompts)
    else:
        table(options.methods, prompts, options.repeats, options.length)


def table(methods: list[str], prompts: list[str], repeats: int, length: str) -> None:
    """A line for each method: the ratio of each turn's times, both sides' seconds, tokens and peak memory."""
    print(
        "| method | times faster than Inseq | seconds, ours | seconds, Inseq | token-forwards, -backwards, ours | peak MiB, ours | Inseq |"
    )
    print("|---|---|---|---|---|---|---|")
    ours, theirs = noiser.load(), noiser.load()
    for method in methods:
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(-1, repeats):
            for prompt in prompts:
                pair = seconds_ours(ours, method, prompt), seconds_inseq(theirs, method, prompt)
                for kept, one in zip(taken, pair, strict=True):
                    kept.extend([one] if turn >= 0 else [])
        ratios = [b / a for a, b in zip(*taken, strict=True)]
        cost = run_ours(ours, method, prompts[0]).cost
        peaks = [in_a_process(side, method, length) for side in ("ours", "inseq")]
        spans = [spread(ratios), spread(taken[0]), spread(taken[1])]
        print(f"| {method} | {' | '.join(spans)} | {cost.forward_tokens:,}, {cost.backward_tokens:,} | {' | '.join(peaks)} |", flush=True)


def run_ours(lm: noiser.LanguageModel, method: str, prompt: str) -> noiser.Attribution:
    """One prompt by our method, at the settings of the table."""
    return noiser.attribute(lm, prompt, OUR_NAME.get(method, method).split(",")[0], **SETTINGS[method][0])


def seconds_ours(lm: noiser.LanguageModel, method: str, prompt: str) -> float:
    """How long that takes."""
    begin = time.perf_counter()
    run_ours(lm, method, prompt)
    return time.perf_counter() - begin


def seconds_inseq(lm: noiser.LanguageModel, method: str, prompt: str) -> float:
    """How long Inseq takes for the same prompt and target; wrapping the model is not counted."""
    import inseq

    lm.model.set_attn_implementation("eager" if method == "attention" else "sdpa")
    host = inseq.load_model(lm.model, method.split(",")[0], tokenizer=lm.tokenizer)
    (clean,) = lm.clean([lm.prompt(prompt)])
    whole = prompt + lm.tokens.surface(clean.prediction)
    begin = time.perf_counter()
    out: Any = host.attribute(prompt, whole, show_progress=False, **SETTINGS[method][1])
    out.aggregate()
    return time.perf_counter() - begin


def in_a_process(side: str, method: str, length: str) -> str:
    """The peak memory of one call, measured in a separate process."""
    command = [sys.executable, "-m", "benchmarks.baselines", method, "--memory", side, "--length", length]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


def peak(side: str, method: str, prompt: str) -> int:
    """The peak memory during the call, in MiB above the memory before it. Imports and a first run come before."""
    lm = noiser.load()
    other = SETTINGS["input_x_gradient"]
    noiser.attribute(lm, prompt, "input_x_gradient", **other[0])
    seconds_inseq(lm, "input_x_gradient", prompt)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: restart the peak from the memory in use now
    before = psutil.Process().memory_info().rss
    if side == "ours":
        run_ours(lm, method, prompt)
    else:
        seconds_inseq(lm, method, prompt)
    highest = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return (int(highest.split()[1]) * 1024 - before) // MIB


def occlusion(prompts: list[str], repeats: int) -> None:
    """Our occlusion against T whole rows in one batch, with logits of the last position only."""
    lm, ratios = noiser.load(), []
    for turn in range(-1, repeats):
        for prompt in prompts:
            begin = time.perf_counter()
            noiser.attribute(lm, prompt, "occlusion")
            middle = time.perf_counter()
            with torch.no_grad():
                embeds = lm.model.get_input_embeddings()(torch.tensor([lm.prompt(prompt).input_ids]))
                rows = embeds.repeat(embeds.shape[1], 1, 1) * (1 - torch.eye(embeds.shape[1]))[..., None]
                lm.model(inputs_embeds=rows, use_cache=False, logits_to_keep=1).logits[:, -1].softmax(-1)
            ratios.extend([(middle - begin) / (time.perf_counter() - middle)] if turn >= 0 else [])
    print(f"occlusion over T batched forward passes: {spread(ratios)}")


def continuation(prompts: list[str], tokens: int = 10) -> None:
    """Token-forwards of all rows of a continuation, divided by those of its last row alone."""
    lm = noiser.load()
    print("| prompt | tokens | k | token-forwards of all rows | of the last alone | ratio | ratio of the floors | ratio in seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for prompt in prompts:
        first = lm.prompt(prompt)
        text = [int(i) for i in lm.prompt(CONTINUATION).input_ids[:tokens]]
        every = noiser.attribute(lm, prompt, continuation=text)
        last = noiser.attribute(lm, [*first.input_ids, *text[:-1]], target=text[-1])
        floors = [n * (n + 1) / 2 for n in range(len(first), len(first) + len(text))]
        k = ", ".join(f"{row['k']:.2f}" for row in every.notes["rows"])
        counts = every.cost.forward_tokens, last.cost.forward_tokens
        ratios = counts[0] / counts[1], sum(floors) / floors[-1], every.cost.seconds / last.cost.seconds
        figures = " | ".join([*(f"{count:,}" for count in counts), *(f"{ratio:.2f}" for ratio in ratios)])
        print(f"| {prompt} | {len(text)} | {k} | {figures} |", flush=True)


CONTINUATION = " the city that he had known as a child and loved"


def spread(values: list[float]) -> str:
    """Median, smallest and largest."""
    return f"**{statistics.median(values):.2f}** ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
