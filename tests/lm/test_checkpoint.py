"""Only safetensors inside the model's folder are opened; every other source of weights is refused before anything is read.

Mutants caught: the suffix of a shard not looked at; `..` or absolute names in an index allowed; links not followed; the blobs
of the hub's cache refused; `transformers_weights` not looked at; an adapter not looked at; `S_ISREG` or the size limits left out.
"""

import json
import os
import shutil

import pytest
import torch

import noiser
from noiser.errors import ModelError
from noiser.lm.checkpoint import INDEX, model_files, weight_files
from tests.conftest import byte_tokenizer, tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny model and its tokenizer, as saved by transformers."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


def index_to(folder, name):
    """Replace the weights by an index that maps every tensor to this file."""
    names = [name for name, _ in tiny("llama").named_parameters()]
    (folder / "model.safetensors").rename(folder / "decoy.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)}))


@pytest.mark.parametrize("name", ["weights.dat", "pytorch_model.bin", "weights.safetensors.pt"])
def test_an_index_that_names_a_pickle_is_refused_and_the_pickle_not_read(folder, tmp_path, name):
    """Mutant: the suffix of a shard not looked at."""
    index_to(folder, name)
    torch.save({"model.embed_tokens.weight": Bomb(tmp_path / "ran")}, folder / name)
    with pytest.raises(ModelError, match=rf"{name}, which is not a safetensors file.*--allow-pickle"):
        noiser.load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "a/../../outside.safetensors", "a\0b.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(folder, name):
    """Even a good file outside. Mutant: `..`, absolute names or NUL allowed."""
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    index_to(folder, name)
    with pytest.raises(ModelError, match="outside the model's folder"):
        noiser.load(folder)
    with pytest.raises(ModelError, match="outside the model's folder"):
        noiser.load(folder, allow_pickle=True)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_a_link_out_of_the_folder_is_refused(folder, name):
    """Mutant: links not followed."""
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)
    with pytest.raises(ModelError, match=rf"{name} leads out of the model's folder"):
        noiser.load(folder)


def test_links_inside_the_folder_and_into_the_blobs_of_a_hub_snapshot_are_followed(folder):
    """Mutant: the blobs left out of `_roots`."""
    (folder / "model.safetensors").rename(folder / "real.safetensors")
    (folder / "model.safetensors").symlink_to("real.safetensors")
    assert noiser.load(folder).prompt("a").input_ids
    snapshot = folder.parent / "models--a--b" / "snapshots" / "0123"
    blobs = folder.parent / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        shutil.copy(file, blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    assert noiser.load(snapshot).prompt("a").input_ids
    (folder.parent / "link").symlink_to(snapshot)
    assert noiser.load(folder.parent / "link").prompt("a").input_ids


@pytest.mark.parametrize("name", ["../outside.safetensors", "weights.bin", "/etc/hostname", 3])
def test_weights_that_the_configuration_names_are_checked(folder, name):
    """Mutant: `transformers_weights` not looked at."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
    with pytest.raises(ModelError, match="no safetensors file inside the folder"):
        noiser.load(folder)


def test_an_adapter_and_its_base_are_checked(folder, tmp_path):
    """Mutant: `adapter_weights` left out."""
    base = tmp_path / "base"
    base.mkdir()
    torch.save({}, base / "pytorch_model.bin")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    torch.save({}, folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"pickled \(adapter_model\.bin\)"):
        weight_files(folder)
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model\.bin\)"):
        weight_files(folder)
    shutil.copy(folder / "model.safetensors", base)
    assert [file.name for file in weight_files(folder)] == ["adapter_model.safetensors", "model.safetensors"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_fifo_or_a_device_is_refused_before_it_is_opened(folder, name):
    """Mutant: `S_ISREG` left out: the FIFO never ends."""
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=f"{name} is not an ordinary file"):
        noiser.load(folder)


def test_a_huge_configuration_is_refused_before_it_is_opened(folder):
    """Mutant: LIMITS not looked at. The file is sparse."""
    for name in ("tokenizer.json", "config.json"):
        with (folder / name).open("r+b") as file:
            file.truncate(100_000_000)
        with pytest.raises(ModelError, match=f"{name} has 100,000,000 bytes"):
            model_files(folder)
        (folder / name).unlink()


@pytest.mark.parametrize("content", ["[]", "{", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "[" * 100_000, "\udcff"])
def test_a_damaged_index_is_refused_by_name(folder, content):
    """Mutant: a type not looked at."""
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=INDEX):
        noiser.load(folder)


def test_an_index_that_names_a_missing_shard_is_refused_by_name(folder):
    """Mutant: `is_file` not asked."""
    index_to(folder, "parts/one.safetensors")
    with pytest.raises(ModelError, match=r"one\.safetensors, which is not there"):
        noiser.load(folder)


def test_a_sharded_model_loads(folder, tmp_path):
    """Mutant: shards refused, or weights taken from the first only."""
    (folder / "model.safetensors").unlink()
    tiny("llama").save_pretrained(folder, max_shard_size="100KB")
    assert len(weight_files(folder)) > 1
    assert noiser.load(folder).prompt("a").input_ids


@pytest.mark.parametrize("names", [["../tokenizer.9.json"], "/etc/hostname", [3]])
def test_a_tokenizer_file_outside_the_folder_is_refused(folder, names):
    """Mutant: `fast_tokenizer_files` not looked at."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "fast_tokenizer_files": names}))
    with pytest.raises(ModelError, match="fast_tokenizer_files"):
        noiser.load(folder)


@pytest.mark.parametrize("name", ["weights.dat", "../outside.safetensors"])
def test_a_hub_model_whose_index_names_a_pickle_is_refused_before_its_weights_are_fetched(folder, monkeypatch, name):
    """Mutant: `check_hub_model` not called, or the suffix not looked at."""
    index_to(folder, name)
    monkeypatch.setattr("noiser.lm.checkpoint.cached_file", lambda model, name, **_: folder / name)
    monkeypatch.setattr("noiser.lm.load.AutoModelForCausalLM", None)
    with pytest.raises(ModelError, match=r"not a safetensors file|outside the model's folder"):
        noiser.load("nobody/model")
