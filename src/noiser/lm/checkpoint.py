"""A checkpoint before it is loaded: its files, its revision, and whether its configuration is that of a decoder."""

import hashlib
import inspect
import json
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from noiser.errors import ModelError, NoiserError, RunError
from noiser.storage import cache_folder, create_once, read_created

PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
READ = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*vocab*", "*merges*", "*.codes", *PICKLED)
"""The files on which a model's numbers depend: configuration, tokenizer, chat template and weights."""
TEMPLATES = "additional_chat_templates"
INDEX = "model.safetensors.index.json"
SMALL = (
    "config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json",
    "chat_template.json", "processor_config.json", "preprocessor_config.json",
)  # fmt: skip
LARGE = ("tokenizer.json", "vocab.json", "added_tokens.json", INDEX, "pytorch_model.bin.index.json", "adapter_model.safetensors.index.json")
LIMITS = {**dict.fromkeys(SMALL, 16_000_000), **dict.fromkeys(LARGE, 90_000_000), "chat_template.jinja": 1_000_000}
"""The largest size in bytes of a file that is read whole."""


@contextmanager
def unify_model_errors(problem: str) -> Iterator[None]:
    """Turn any exception inside the block into a ModelError that says the problem and its cause. NoiserErrors pass through."""
    try:
        yield
    except NoiserError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # what Rust code raises in place of an error
            raise
        raise ModelError(f"{problem}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, and its type if the text does not say enough."""
    lines = str(error).strip().splitlines()
    kind = "" if isinstance(error, OSError | ValueError) and lines else f"{type(error).__name__}: "
    return (kind + lines[0] if lines else type(error).__name__)[:400]


def model_files(folder: Path, *, code: bool = False) -> list[Path]:
    """All files on which the numbers of a model depend, sorted by their path. With `code` also the Python files.

    Raises ModelError if one of them is not an ordinary file, leads out of the folder, or is too large to be read whole. Only
    index files are opened.
    """
    files = {file for pattern in READ for file in folder.glob(pattern) if not file.is_dir()}
    files |= set((folder / TEMPLATES).glob("*.jinja"))
    if code:
        files |= set(folder.rglob("*.py"))
    for file in files:
        _check_file(file, folder)
    for index in [file for file in files if file.name.endswith(".index.json")]:
        files |= {shard for shard in shards(index) if shard.exists()}
    _check_tokenizer_names(folder / "tokenizer_config.json")
    return sorted(files)


def _check_file(file: Path, folder: Path) -> None:
    """Raises ModelError unless the file is an ordinary one of acceptable size, inside the folder after all links are followed."""
    try:
        target = file.resolve(strict=True)
        status = target.stat()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not any(target.is_relative_to(root) for root in _roots(folder)):
        raise ModelError(f"{file} leads out of the model's folder, to {target}. Copy the file into the folder")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"{file} is not an ordinary file. A model is read from ordinary files only")
    limit = 1_000_000 if file.suffix == ".jinja" else LIMITS.get(file.name)
    if limit is not None and status.st_size > limit:
        raise ModelError(f"{file} has {status.st_size:,} bytes; noiser reads at most {limit:,} of such a file")


def _check_tokenizer_names(config: Path) -> None:
    """Raises ModelError if the tokenizer's configuration names a file that is not directly in the folder."""
    names = read_json(config).get("fast_tokenizer_files", []) if config.exists() else []
    if not isinstance(names, list) or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ModelError(f"{config}: fast_tokenizer_files must be a list of names of files in the folder; got {names!r:.100}")


def _roots(folder: Path) -> list[Path]:
    """The folders that a model's files may be in: its own, and for a snapshot in the hub's cache the blobs of the same model."""
    root = folder.resolve()
    return [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]


def shards(index: Path) -> list[Path]:
    """The files that a weight index names. Raises ModelError if one of them is not a path inside the folder."""
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) and all(map(_is_text, weight_map.values())) else None
    if not names:
        raise ModelError(f"{index} is not an index of weights: it needs a 'weight_map' from tensor names to file names")
    files = [index.parent / name for name in sorted(names)]
    for file, name in zip(files, sorted(names), strict=True):
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{index} names {name!r}, which is outside the model's folder")
        if file.exists() or file.is_symlink():
            _check_file(file, index.parent)
    return files


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ModelError if the file holds anything else."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"cannot read {file} as JSON: {str(error) or type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds {type(content).__name__}, not a JSON object")
    return content


def weight_files(folder: Path, *, allow_pickle: bool = False) -> list[Path]:
    """The safetensors files that transformers will read. An empty list if the weights are pickled and `allow_pickle` is set.

    Raises ModelError if there are none, or if any weights would be read from another kind of file.
    """
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    named = config.get("transformers_weights")
    files = list(adapter_weights(folder, allow_pickle=allow_pickle))
    if named is not None:
        files += _named_weights(folder, named)
    elif (folder / "model.safetensors").is_file():
        files.append(folder / "model.safetensors")
    elif (folder / INDEX).is_file():
        files += shards(folder / INDEX)
    elif not files and not allow_pickle:
        _refuse(folder)
    for file in files:
        if file.suffix != ".safetensors" and not allow_pickle:
            raise ModelError(f"{folder} takes its weights from {file.name}, which is not a safetensors file. {_CONVERT}")
        if not file.is_file():
            raise ModelError(f"{folder} takes its weights from {file.name}, which is not there")
        _check_file(file, folder)
    return [file for file in files if file.suffix == ".safetensors"]


def check_hub_model(model: str, **options: Any) -> None:
    """Fetch the configuration and the weight index of a hub model. Raises ModelError if other files than safetensors hold weights.

    `options` go to transformers' `cached_file`.
    """
    config = cached_file(model, "config.json", _raise_exceptions_for_missing_entries=False, **options)
    named = read_json(Path(config)).get("transformers_weights") if config else None
    for name in {INDEX, str(named)}:
        if name.endswith(".json") and (index := cached_file(model, name, _raise_exceptions_for_missing_entries=False, **options)):
            for shard in shards(Path(index)):
                if shard.suffix != ".safetensors":
                    raise ModelError(f"{model} takes its weights from {shard.name}, which is not a safetensors file. {_CONVERT}")


def _named_weights(folder: Path, named: Any) -> list[Path]:
    """The weights that the configuration's `transformers_weights` names."""
    file = folder / named if isinstance(named, str) and "\0" not in named else folder / ".."
    if not file.resolve().is_relative_to(folder.resolve()) or file.suffix not in (".safetensors", ".json"):
        raise ModelError(f"{folder / 'config.json'} names {named!r} as weights, which is no safetensors file inside the folder")
    return shards(file) if file.suffix == ".json" else [file]


def adapter_weights(folder: Path, *, allow_pickle: bool) -> Iterator[Path]:
    """The weights of an adapter (LoRA), if the folder holds one. Its base model is checked as well if it is a folder.

    Raises ModelError if they are pickled and `allow_pickle` is not set.
    """
    if not (folder / "adapter_config.json").exists():
        return
    safe = folder / "adapter_model.safetensors"
    if safe.is_file():
        yield safe
    elif not allow_pickle:
        _refuse(folder)
    base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and "\0" not in base and Path(base).is_dir() and Path(base).resolve() != folder.resolve():
        model_files(Path(base))
        weight_files(Path(base), allow_pickle=allow_pickle)


_CONVERT = (
    "Reading any other kind of file can run code. Convert the weights to safetensors, or pass --allow-pickle (allow_pickle=True) "
    "if you trust where they come from"
)


def _refuse(folder: Path) -> None:
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    if pickled:
        raise ModelError(f"{folder} has its weights pickled ({pickled[0]}). {_CONVERT}")
    raise ModelError(f"{folder} has no weights: it holds neither model.safetensors nor {INDEX}")


REMEMBER = 8 << 20
"""Files of this many bytes or more are hashed once and then remembered. Smaller ones are hashed as fast as they are looked up."""
SETTLED = 2.0
"""Seconds since a file's last change, after which any further change gets another time stamp."""


def folder_revision(folder: Path, *, code: bool = False) -> str:
    """A hash of names and contents of all files in the folder that change numbers. Other files and the folder's path do not count.

    With `code` it covers the Python files too. Raises ModelError as `model_files` does.
    """
    digest = hashlib.sha256()
    for file in model_files(folder, code=code):
        digest.update(f"{file.relative_to(folder).as_posix()} {file_digest(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """The SHA-256 of a whole file. That of a large file is remembered in the user's cache, by device, inode, size and times."""
    try:
        before = _key(file)
        if before[0] < REMEMBER:
            return _sha256(file)
        record = cache_folder() / "digests" / hashlib.sha256(repr(before).encode()).hexdigest()[:32]
        return _remembered(record) or _hash_and_remember(file, before, record)
    except OSError as error:
        raise ModelError(f"cannot read {file}: {error.strerror or error}") from error


def _key(file: Path) -> tuple[int, ...]:
    """Size, times in nanoseconds, inode and device. The change time also tells apart contents whose modification time was reset."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _remembered(record: Path) -> str | None:
    """The hash in a record. None if there is no record, or if it is damaged."""
    try:
        return str(read_created(record)["sha256"]) if record.exists() else None
    except (RunError, KeyError, OSError):
        return None


def _hash_and_remember(file: Path, before: tuple[int, ...], record: Path) -> str:
    digest = _sha256(file)
    settled = time.time() - max(before[1:3]) / 1e9 > SETTLED
    if settled and before == _key(file):
        with suppress(RunError, OSError):  # a cache that cannot be written costs time only
            create_once(record, {"sha256": digest})
    return digest


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


LANGUAGE_MODEL = re.compile(r"(CausalLM|LMHeadModel|LMHead|ForConditionalGeneration|ForPreTraining)$")
"""Architectures whose head predicts the next token."""
OTHER_HEADS = {
    re.compile(r"ForSequenceClassification$|RewardModel$"): "classifies whole texts",
    re.compile(r"ForTokenClassification$"): "classifies tokens",
    re.compile(r"ForQuestionAnswering$"): "marks answers in a text",
    re.compile(r"ForMultipleChoice$|ForNextSentencePrediction$"): "scores sentences",
    re.compile(r"ForMaskedLM$"): "fills gaps and sees the tokens behind them",
    re.compile(r"Model$"): "gives hidden states",
}
"""Architectures that are no language models, and what they do instead."""
WANTED = "noiser explains decoders, which predict the next token from the tokens before it"


def check_architecture(config: Any, name: str, *, own_code: bool = False) -> None:
    """Raises ModelError, with the model's name, if the checkpoint's configuration is not that of a decoder.

    A class that comes with the model (`own_code`) may end in `Model`, as some language models of their own do.
    """
    if _is_encoder_decoder(config):
        raise ModelError(
            f"{name} is an encoder-decoder (model type {getattr(config, 'model_type', '?')}): its decoder continues what an encoder has "
            f"read, and alone it would give other numbers. {WANTED}: choose a model of that kind"
        )
    for architecture in _architectures(config):
        use = _other_use(architecture, own_code=own_code)
        if use:
            raise ModelError(
                f"{name} holds a {architecture}, which {use} and has no head for the next token. {WANTED}. If the checkpoint has "
                'such a head, name its class in config.json, under "architectures"'
            )


def keeps_logits(model: Any) -> bool:
    """Whether the model can compute the logits of some positions only. Any other computes those of all."""
    return "logits_to_keep" in inspect.signature(model.forward).parameters


def _is_encoder_decoder(config: Any) -> bool:
    """Whether the checkpoint has an encoder too. Where its decoder was taken alone, its configuration no longer says so."""
    both = any(getattr(config, name, None) for name in ("encoder_layers", "num_decoder_layers"))
    family = both or getattr(config, "model_type", "") in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    whole = any(not name.endswith("ForCausalLM") for name in _architectures(config))
    return bool(getattr(config, "is_encoder_decoder", False)) or (family and whole)


def _architectures(config: Any) -> list[str]:
    """The classes that the checkpoint was saved from. Empty if the configuration names none."""
    names = getattr(config, "architectures", None)
    return [name for name in names if isinstance(name, str)] if isinstance(names, list | tuple) else []


def _other_use(architecture: str, *, own_code: bool) -> str:
    """What a model of this class does if it does not predict the next token. Empty if it does, or if that is not known."""
    if LANGUAGE_MODEL.search(architecture) or (own_code and architecture.endswith("Model")):
        return ""
    return next((use for pattern, use in OTHER_HEADS.items() if pattern.search(architecture)), "")
