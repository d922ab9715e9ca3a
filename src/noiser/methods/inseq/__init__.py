"""Inseq's methods on our token ids."""
