"""Noiser, the method of the paper."""
