"""Where results are written: files as a whole, links followed, devices and FIFOs written through.

Each of the first three tests fails where `Output.open` is `path.open("w")`, as in commit 31a9b85. Mutants caught: `open_output` replaced by
`path.open("w")`; the write that fails passed over; a link replaced by a file.
"""

import json
import os
import resource
import stat
import threading
from pathlib import Path

import pytest

import noiser
from noiser import cli
from noiser.cli.outputs import Output, choose_format
from noiser.errors import OptionError
from tests.conftest import byte_tokenizer, tiny

PROMPTS = "The sky is\nGrass is so\nSnow is now\n"
COMMANDS = {
    "attribute": ("attribute", "--file", "PROMPTS", "--method", "occlusion"),
    "attribute json": ("attribute", "the sky", "--method", "occlusion", "--format", "json"),
    "attribute html": ("attribute", "the sky", "--method", "occlusion", "--format", "html"),
    "compare": ("compare", "the sky", "--methods", "occlusion,random"),
    "evaluate": (
        "evaluate",
        "--prompts",
        "PROMPTS",
        "--methods",
        "occlusion",
        "--metrics",
        "aopc",
        "--controls",
        "random",
        "--format",
        "json",
    ),
    "methods": ("methods", "--format", "json"),
}


@pytest.fixture(scope="module")
def lm():
    return noiser.LanguageModel(tiny("llama"), byte_tokenizer(), name="tiny")


@pytest.fixture
def run(lm, monkeypatch, capfd, tmp_path):
    """A command on a tiny model with `--out`: exit status, standard output, standard error."""
    monkeypatch.setattr("noiser.lm.load.load", lambda *_, **__: lm)
    (tmp_path / "prompts.txt").write_text(PROMPTS)

    def run(name, out):
        words = [str(tmp_path / "prompts.txt") if word == "PROMPTS" else word for word in COMMANDS[name]]
        monkeypatch.setattr("sys.argv", ["noiser", *words, "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        shown = capfd.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return run


@pytest.fixture
def full_disk():
    """Files of this process may not grow beyond 100 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_leaves_the_earlier_result(name, run, tmp_path, full_disk):
    out = tmp_path / "result"
    out.write_text("earlier")
    full_disk()
    code, _, err = run(name, out)
    assert code == 1
    assert "Error: cannot read or write" in err
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.txt", "result"], "no partial file is left"


@pytest.mark.parametrize("name", ["attribute json", "attribute html", "methods"])
def test_a_symbolic_link_stays_and_its_file_gets_the_result(name, run, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("earlier")
    link.symlink_to(target)
    assert run(name, link)[0] == 0
    assert link.is_symlink()
    assert len(target.read_bytes()) > 100


@pytest.mark.parametrize("name", ["attribute", "attribute json", "attribute html"])
def test_a_fifo_is_written_through(name, run, tmp_path):
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    code, _, _ = run(name, fifo)
    reader.join(20)
    assert code == 0
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert len(read[0]) > 100
    if name == "attribute":
        assert [json.loads(line)["line"] for line in read[0].splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("name", ["attribute json", "attribute html"])
def test_a_device_is_written_through_and_a_full_one_is_an_error(name, run):
    assert run(name, "/dev/null")[0] == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    code, _, err = run(name, "/dev/full")
    assert code == 1
    assert "No space left on device" in err


def test_an_error_while_the_file_is_written_leaves_the_earlier_one(tmp_path):
    out = tmp_path / "result"
    out.write_text("earlier")
    with pytest.raises(KeyboardInterrupt), Output("json", out).open() as sink:
        sink.write("half")
        raise KeyboardInterrupt
    assert out.read_text() == "earlier"


def test_what_cannot_be_written_is_said_at_once(tmp_path):
    for path, reason in ((tmp_path, "it is a folder"), (tmp_path / "no" / "file", "its folder does not exist")):
        with pytest.raises(OptionError, match=reason):
            Output.checked("json", path, ("json",))
    with pytest.raises(OptionError, match=r"save_figure\('a.pdf'\) writes pdf"):
        choose_format(None, tmp_path / "a.pdf", "heatmap", ("svg", "html"))
