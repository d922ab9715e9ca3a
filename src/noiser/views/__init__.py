"""Views show results in a terminal, on a page, in a notebook, or as a figure. They import no model code."""
