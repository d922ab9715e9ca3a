"""Some 70 hostile model folders and 20 GGUF headers: each is loaded or refused by name; none ends in a traceback, an abort or a hang.

Each case runs in a process forked from this one, within limits of time and memory. `make test-slow` prints the counts; every
fifth case runs in the daily tests. Mutants caught: `except Exception` in `unify_model_errors` narrowed to ValueError; `run_bounded` without
its time limit, its memory limit or its limit of output; `check_sizes`, `_check_file` or `read_header` not called.
"""

import json
import os
import resource
import shutil
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import noiser
from noiser.errors import NoiserError
from noiser.lm.bounded import BoundedError, run_bounded
from tests.conftest import byte_tokenizer, tiny
from tests.gguf_built_here import write_gguf
from tests.lm.test_gguf import HEADERS

SECONDS, MEMORY = 40, 3 << 30
Change = Callable[[Path], Any]
CHAT = [{"role": "user", "content": "hi"}]


def config(name: str = "config.json", **values: Any) -> Change:
    def change(folder: Path) -> None:
        old = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(old | values))

    return change


def text(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def tokenizer(**values: Any) -> Change:
    return config("tokenizer.json", **values)


def template(content: str) -> Change:
    return text("chat_template.jinja", content)


def fifo(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def sparse(name: str, size: int) -> Change:
    return lambda folder: os.truncate(folder / name, size)


def header(content: Any, length: int | None = None) -> Change:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return text("model.safetensors", struct.pack("<Q", len(data) if length is None else length) + data)


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"
DOUBLE = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}"
FOLDERS: dict[str, Change] = {
    **{f"config {key} is {value!r:.20}": config(**{key: value}) for key, value in [
        ("model_type", "nothing"), ("model_type", 3), ("model_type", None), ("model_type", ["llama"]), ("hidden_size", "64"),
        ("hidden_size", -1), ("hidden_size", 0), ("hidden_size", 63), ("num_attention_heads", 0), ("num_attention_heads", 5),
        ("num_attention_heads", "x"), ("num_key_value_heads", 0), ("num_key_value_heads", -2), ("num_hidden_layers", 20_000),
        ("num_hidden_layers", -1), ("num_hidden_layers", 1.5), ("num_hidden_layers", None), ("vocab_size", 1 << 40),
        ("vocab_size", -5), ("vocab_size", []), ("intermediate_size", 1 << 30), ("rope_parameters", "x"), ("rope_parameters",
        {"rope_type": "y"}),
        ("rope_theta", "x"), ("rms_norm_eps", "x"), ("max_position_embeddings", "x"), ("max_position_embeddings", -1),
        ("max_position_embeddings", 1 << 50), ("hidden_act", "nothing"), ("hidden_act", 7), ("dtype", "float99"), ("dtype", 5),
        ("quantization_config", 1), ("quantization_config", {"quant_method": "none"}), ("architectures", 4), ("eos_token_id",
        "x"),
        ("pad_token_id", 10**12), ("transformers_weights", "../x.safetensors"), ("auto_map", 3),
        ("text_config", {"num_hidden_layers": 20_000}), ("head_dim", 1 << 40), ("attn_implementation", "nothing"),
    ]},
    "config is a list": text("config.json", "[]"), "config is cut": text("config.json", '{"model_type'),
    "config is empty": text("config.json", ""), "config is not UTF-8": text("config.json", b"\xff\xfe{}"),
    "config is deep": text("config.json", '{"a":' * 100_000), "config is a FIFO": fifo("config.json"),
    "config is a device": link("config.json", "/dev/zero"), "config is a loop": link("config.json", "config.json"),
    "config has 100 MB": sparse("config.json", 100_000_000), "config has a huge integer": text("config.json",
    '{"vocab_size": ' + "9" * 10_000 + "}"),
    "generation config is a list": text("generation_config.json", "[]"),
    "generation config is wrong": config("generation_config.json", eos_token_id={"a": 1}, max_length="x"),
    "tokenizer is empty": text("tokenizer.json", ""), "tokenizer is a list": text("tokenizer.json", "[]"),
    "tokenizer is deep": text("tokenizer.json", '{"model":' * 100_000), "tokenizer has 100 MB": sparse("tokenizer.json",
    100_000_000),
    "tokenizer is a FIFO": fifo("tokenizer.json"), "tokenizer model is wrong": tokenizer(model={"type": "BPE",
    "vocab": {"a": -1}, "merges": [3]}),
    "tokenizer ids are huge": tokenizer(model={"type": "BPE", "vocab": {"a": 4_294_967_295}, "merges": []}),
    "tokenizer added tokens are wrong": tokenizer(added_tokens=[{"id": "x"}]),
    "tokenizer decoder is wrong": tokenizer(decoder={"type": "Nothing"}),
    "tokenizer padding is huge": tokenizer(padding={"strategy": {"Fixed": 10**12}, "direction": "Right",
    "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}),
    "tokenizer config is a list": text("tokenizer_config.json", "[]"),
    "tokenizer config is wrong": config("tokenizer_config.json", bos_token=3, added_tokens_decoder=[], model_max_length="x"),
    "tokenizer class is wrong": config("tokenizer_config.json", tokenizer_class=[1]),
    "special tokens are wrong": text("special_tokens_map.json", '{"bos_token": {"a": []}, "x": 7}'),
    "template loops": template(LOOP), "template doubles": template(DOUBLE),
    "template multiplies": template("{{ 'a' * 10 ** 10 }}"),
    "template powers": template("{{ 10 ** 10 ** 9 }}"), "template pads": template("{{ 'a'.ljust(9999999999) }}"),
    "template recurses": template("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}"),
    "template is long": template("{% for a in range(99999) %}{% for b in range(99) %}aaaaaaaaaa{% endfor %}{% endfor %}"),
    "template is cut": template("{% if"), "template is deep": template("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}"),
    "template raises": template("{{ raise_exception('no') }}"), "template divides": template("{{ 1 // 0 }}"),
    "template escapes": template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "template has 2 MB": template("a" * 2_000_000),
    "template is a number": config("tokenizer_config.json", chat_template=7),
    "weights are empty": text("model.safetensors", ""), "weights are short": text("model.safetensors", b"\1\0"),
    "weights header is absurd": header(b"{}", 1 << 62), "weights header has no JSON": header(b"abc"),
    "weights header is a list": header([]),
    "weights shape is absurd": header({"a": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 4]}}),
    "weights type is absurd": header({"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}}),
    "weights offsets are absurd": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}),
    "weights are a FIFO": fifo("model.safetensors"),
    "weights are a folder": lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").mkdir()),
}  # fmt: skip
CASES = [*FOLDERS, *(f"GGUF {name}" for name in HEADERS)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "model"
    tiny("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def build(name: str, saved: Path, folder: Path) -> Path:
    """The hostile model. Hostile GGUF files are headers, or a small model with the header's first bytes replaced."""
    if name.startswith("GGUF "):
        folder.mkdir()
        (folder / "hostile.gguf").write_bytes(HEADERS[name.removeprefix("GGUF ")][0])
        return folder / "hostile.gguf"
    shutil.copytree(saved, folder)
    FOLDERS[name](folder)
    return folder


def attempt(model: Path) -> str:
    """Load the model and use it. A refusal must name the model, or come from its tokenizer or its template."""
    try:
        lm = noiser.load(model)
        lm.prompt(CHAT if lm.tokenizer.chat_template else "abc")
        noiser.attribute(lm, "abc", method="occlusion")
    except NoiserError as error:
        return f"refused: {type(error).__name__}: {error}"
    return "loaded"


def outcome(model: Path) -> str:
    """What the attempt ends in, in a process forked from this one."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        limited(model, writing)
    os.close(writing)
    deadline = time.monotonic() + SECONDS
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return "hang"
        time.sleep(0.02)
    with os.fdopen(reading) as file:
        return file.read() or "abort"


def limited(model: Path, writing: int) -> None:
    try:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        try:
            result = attempt(model)
        except BaseException as error:  # noqa: BLE001  (it is the result)
            result = f"traceback: {type(error).__name__}: {error}"
        os.write(writing, result[:4_000].encode(errors="replace"))
    finally:
        os._exit(0)


def check(names: list[str], saved: Path, tmp_path: Path) -> Counter[str]:
    results = {name: outcome(build(name, saved, tmp_path / str(number))) for number, name in enumerate(names)}
    counts = Counter(result.split(":")[0] for result in results.values())
    bad = {name: result for name, result in results.items() if result.split(":")[0] not in ("loaded", "refused")}
    unnamed = {name: result for name, result in results.items() if result.startswith("refused: ModelError") and "/" not in result}
    print(f"\n{len(names)} hostile models: {dict(counts)}")
    assert not bad, "\n".join(f"{name}: {result:.300}" for name, result in bad.items())
    assert not unnamed
    return counts


def test_a_sample_of_hostile_models(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    assert check(CASES[::7], saved, tmp_path)["refused"] > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_hostile_model_ends_in_a_traceback_or_a_hang(saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    with capsys.disabled():
        assert check(CASES, saved, tmp_path)["refused"] > 70


def test_a_good_model_is_loaded_in_the_same_way(saved, tmp_path, monkeypatch):
    """Otherwise the limits of this file refuse everything."""
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    folder = shutil.copytree(saved, tmp_path / "good")
    template("{% for m in messages %}{{ m.content }}{% endfor %}")(folder)
    assert outcome(folder) == "loaded"
    assert outcome(write_gguf(tmp_path / "good.gguf")) == "loaded"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("work", "match"),
    [(lambda: time.sleep(50), "more than"), (lambda: "a" * (2 << 30), "MemoryError"), (lambda: "a" * (40 << 20), "result has more than"),
     (lambda: 1 // 0, "ZeroDivisionError"), (lambda: os._exit(3), "without a result")],
)  # fmt: skip
def test_work_cannot_leave_its_limits(work, match):
    """Mutants: no deadline in `_read`; RLIMIT_AS not set; OUTPUT not looked at; an exception let through."""
    with pytest.raises(BoundedError, match=match):
        run_bounded(work, seconds=3.0)
    assert run_bounded(lambda: {"a": [1, "b"]}) == {"a": [1, "b"]}
