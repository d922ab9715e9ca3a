"""The command line in this process."""

import pytest

from noiser import cli


@pytest.fixture
def command_line(monkeypatch, capfd):
    """Callable(*arguments): exit status, standard output, standard error."""

    def called(*arguments):
        monkeypatch.setattr("sys.argv", ["noiser", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        shown = capfd.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return called
