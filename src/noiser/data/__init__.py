"""Data sets: prompts with what should follow. The paper's sets, small ones of our own, and files of yours."""

from noiser.data.content import ENDINGS
from noiser.data.files import FileRows, fields_text, parse_fields, read_file
from noiser.data.rows import MATCHES, Dataset, Kind, Match, Row, unreadable_lines
from noiser.data.sets import FORMATS, SETS, SetInfo, is_file_name, present, read, read_label_of_data, read_labelled

__all__ = [
    "ENDINGS",
    "FORMATS",
    "MATCHES",
    "SETS",
    "Dataset",
    "FileRows",
    "Kind",
    "Match",
    "Row",
    "SetInfo",
    "fields_text",
    "is_file_name",
    "parse_fields",
    "present",
    "read",
    "read_file",
    "read_label_of_data",
    "read_labelled",
    "unreadable_lines",
]
