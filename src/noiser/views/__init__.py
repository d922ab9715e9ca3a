"""How results show themselves. Importing this package tells `print` how."""

from noiser.types import VIEWS
from noiser.views import case, checkup, comparison, evaluation, terminal

VIEWS["text"] = terminal.to_text
VIEWS["comparison"] = comparison.to_text
VIEWS["checkup"] = checkup.to_text
VIEWS["evaluation"] = evaluation.to_text
VIEWS["case"] = case.to_text
