"""How results are shown: in a terminal, on a page, in a notebook, as a figure. Views import no model code."""
