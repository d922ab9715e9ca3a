"""Runs over models, data sets, methods and metrics: they survive kills, they continue, and they report."""
