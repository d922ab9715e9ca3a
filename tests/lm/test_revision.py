"""The revision names every file that changes a model's numbers, and nothing else.

Mutants caught: only the ends of a file hashed (`_sha256` of the first and last MiB); `*.jinja`, `*.model`, `merges` or
`vocab` left out of `READ`; shards in subfolders left out of `model_files`; `code` ignored; `REMEMBER` or `SETTLED` set to 0;
one of size, times, inode and device left out of `_key`; a damaged record believed.
"""

import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from noiser.lm import checkpoint as revision
from noiser.lm.checkpoint import INDEX, file_digest, folder_revision
from noiser.lm.load import DEFAULT, locate
from tests.conftest import byte_tokenizer, tiny


@pytest.fixture
def folder(tmp_path):
    """A tiny model and its tokenizer, as saved by transformers."""
    tiny("llama").save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_layers_in_the_middle_of_an_8_mb_file_change_the_revision(folder):
    """Mutant: `_sha256` reads the first and last MiB only."""
    tensors = load_file(folder / "model.safetensors")
    padding = {f"a{n}": torch.zeros(2 << 18) for n in range(2)} | {f"z{n}": torch.zeros(2 << 18) for n in range(2)}
    names = [name for name in tensors if ".layers.0.mlp" in name]
    revisions = set()
    for sign in (1, -1):
        changed = {name: sign * value if name in names else value for name, value in tensors.items()}
        save_file({**padding, **changed}, folder / "model.safetensors")
        assert (folder / "model.safetensors").stat().st_size > 8_000_000
        revisions.add(folder_revision(folder))
    assert names
    assert len(revisions) == 2


@pytest.mark.parametrize(
    "name",
    ["chat_template.jinja", "additional_chat_templates/tool.jinja", "merges.txt", "vocab.txt", "tokenizer.model", "qwen.tiktoken",
     "added_tokens.json", "special_tokens_map.json", "generation_config.json", "adapter_model.safetensors", "pytorch_model.bin"],
)  # fmt: skip
def test_every_file_that_changes_numbers_changes_the_revision(folder, name):
    """Mutant: any one of the patterns in `READ`, or `TEMPLATES`, left out."""
    revisions = {folder_revision(folder)}
    (folder / name).parent.mkdir(exist_ok=True)
    for content in ("one", "two"):
        (folder / name).write_text(content)
        revisions.add(folder_revision(folder))
    assert len(revisions) == 3


def test_shards_in_subfolders_change_the_revision(folder):
    """Mutant: `model_files` does not look at the index."""
    (folder / "parts").mkdir()
    (folder / INDEX).write_text('{"weight_map": {"a": "parts/one.safetensors"}}')
    (folder / "parts" / "one.safetensors").write_text("one")
    before = folder_revision(folder)
    (folder / "parts" / "one.safetensors").write_text("two")
    assert folder_revision(folder) != before


def test_code_counts_if_it_is_trusted_and_other_files_never(folder):
    """Mutant: `code` ignored."""
    before = folder_revision(folder)
    (folder / "README.md").write_text("text")
    (folder / "modeling.py").write_text("code = 1")
    assert folder_revision(folder) == before
    assert folder_revision(folder, code=True) != before


def test_the_default_models_revision_stays():
    """The revision of the alias is in stored runs. Mutant: the converted folder hashed in place of the GGUF file."""
    assert locate(DEFAULT)[2] == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and was changed a minute ago; the number of times that it was hashed."""
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(revision, "REMEMBER", 4)
    monkeypatch.setattr(revision, "SETTLED", -1)
    hashed = []
    original = revision._sha256
    monkeypatch.setattr(revision, "_sha256", lambda file: hashed.append(file) or original(file))
    file = tmp_path / "large.safetensors"
    file.write_bytes(b"weights")
    return file, hashed


def test_a_large_file_is_hashed_once(large):
    """Mutant: the record not read, or not written."""
    file, hashed = large
    assert file_digest(file) == file_digest(file)
    assert len(hashed) == 1
    moved = file.rename(file.with_name("moved.safetensors"))
    os.utime(moved)
    file_digest(moved)
    assert len(hashed) == 2


@pytest.mark.parametrize("change", ["same size", "times put back", "other inode"])
def test_a_changed_file_is_hashed_again(large, change):
    """Mutants: the modification time, the change time or the inode left out of `_key`."""
    file, _ = large
    before, times = file_digest(file), file.stat()
    if change == "other inode":
        other = file.with_name("other")
        other.write_bytes(b"WEIGHTS")
        other.replace(file)
    else:
        file.write_bytes(b"WEIGHTS")
    if change != "same size":
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digest(file) != before


def test_a_file_changed_just_now_is_not_remembered(large, monkeypatch):
    """Two changes within one tick of the clock have equal time stamps. Mutant: `settled` always true."""
    file, hashed = large
    monkeypatch.setattr(revision, "SETTLED", 60.0)
    file_digest(file)
    file_digest(file)
    assert len(hashed) == 2


def test_a_damaged_record_or_an_unusable_cache_costs_time_only(large, monkeypatch, tmp_path):
    """Mutant: RunError let through."""
    file, _ = large
    digest = file_digest(file)
    for record in (tmp_path / "cache" / "digests").iterdir():
        record.write_text("damage")
    assert file_digest(file) == digest
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NOISER_CACHE", str(tmp_path / "file"))
    assert file_digest(file) == digest


def test_a_copy_of_the_folder_has_the_same_revision(folder, tmp_path):
    """Mutant: the path in the hash."""
    assert folder_revision(shutil.copytree(folder, tmp_path / "copy")) == folder_revision(folder)
