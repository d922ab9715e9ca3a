"""How results show themselves. Importing this package tells `print`, notebooks and `save_html` how."""

from typing import Any

from noiser.showing import VIEWS
from noiser.views import case, checkup, comparison, evaluation, terminal
from noiser.views.viewer import frames


def _figure(result: Any, form: Any, **options: Any) -> bytes:
    from noiser.views.figure import figure  # with matplotlib

    return figure(result, form, **options)


VIEWS["text"] = terminal.to_text
VIEWS["comparison"] = comparison.to_text
VIEWS["checkup"] = checkup.to_text
VIEWS["evaluation"] = evaluation.to_text
VIEWS["case"] = case.to_text
VIEWS["page"] = frames.to_page
VIEWS["notebook"] = frames.to_frame
VIEWS["figure"] = _figure
