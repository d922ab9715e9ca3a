"""Text as the library sees it: prompts, and the units that tokens form."""
