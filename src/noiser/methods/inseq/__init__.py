"""Inseq's methods, run on noiser's token ids."""
