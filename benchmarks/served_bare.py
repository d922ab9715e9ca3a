"""How long does vLLM take for rows of embeddings without Noiser and without HTTP? Runs in vLLM's own environment.

    .venv-vllm/bin/python benchmarks/served_bare.py FOLDER 200 10

FOLDER holds the model; then the number of rows, and of tokens in each. `benchmarks.served` times the same rows through a server.
"""

import sys
import time

import torch
from safetensors import safe_open
from vllm import LLM, SamplingParams  # type: ignore[import-not-found]


def main() -> None:
    """Print the seconds of three goes."""
    folder, count, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with safe_open(f"{folder}/model.safetensors", "pt") as opened:
        table = opened.get_tensor("model.embed_tokens.weight").float()
    generator = torch.Generator().manual_seed(0)
    rows = [table[torch.randint(1000, 40_000, (tokens,), generator=generator)] for _ in range(count)]
    llm = LLM(model=folder, dtype="float32", enforce_eager=True, enable_prompt_embeds=True, max_logprobs=-1)
    parameters = SamplingParams(max_tokens=1, logprobs=20, temperature=0, allowed_token_ids=[7042])
    for _ in range(3):
        begin = time.perf_counter()
        llm.generate([{"prompt_embeds": row} for row in rows], parameters, use_tqdm=False)
        print(f"{count} rows of {tokens} tokens: {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main()
