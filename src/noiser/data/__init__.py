"""Data sets: prompts with what should follow. The paper's sets, small ones of our own, and files of yours."""

from noiser.data.rows import MATCHES, Dataset, Kind, Match, Row
from noiser.data.sets import FORMATS, JSONL, SETS, SetInfo, present, read, read_label_of_data, read_labelled

__all__ = [
    "FORMATS",
    "JSONL",
    "MATCHES",
    "SETS",
    "Dataset",
    "Kind",
    "Match",
    "Row",
    "SetInfo",
    "present",
    "read",
    "read_label_of_data",
    "read_labelled",
]
