"""Questions a second of a judge that runs on this machine: `python -m benchmarks.judges llama`, or `local --batch 256 --dtype float32`.

python -m benchmarks.judges local --data known:path=known_1000.json --rows 256
"""

import argparse
import time

import noiser
from noiser.data import read, read_label_of_data
from noiser.judges.backend import Call
from noiser.judges.llama_server import LlamaBackend
from noiser.judges.local import LocalBackend
from noiser.judges.prompting import build_messages, reply_schema, token_limit
from noiser.judges.protocol import JudgePrompt
from noiser.results.answerability import FORMS


def main() -> None:
    """All words of so many prompts, as JSON: one word, then five. Each form twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judge", choices=("local", "llama"))
    parser.add_argument("--data", default="known-mini")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    name, path, _ = read_label_of_data(arguments.data)
    texts = [tuple(str(row.prompt).split()) for row in read(name, path).rows[: arguments.rows]]
    local = arguments.judge == "local"
    backend = (
        LocalBackend("smollm2-135m", lm=noiser.load(dtype=arguments.dtype), batch=arguments.batch)
        if local
        else LlamaBackend("smollm2-135m")
    )
    backend.check()
    for form in FORMS * 2:
        prompts = [JudgePrompt(words, form) for words in texts]
        calls = [Call(build_messages(prompt, True), reply_schema(prompt), token_limit(prompt, True)) for prompt in prompts]
        begin = time.perf_counter()
        backend.complete(calls, lambda *_: None)
        print(f"{form}: {len(calls) / (time.perf_counter() - begin):.2f} questions a second")


if __name__ == "__main__":
    main()
