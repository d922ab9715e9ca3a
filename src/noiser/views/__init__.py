"""How an Attribution shows itself. Importing this package tells `print` how."""

from noiser.types import VIEWS
from noiser.views.terminal import to_text

VIEWS["text"] = to_text
