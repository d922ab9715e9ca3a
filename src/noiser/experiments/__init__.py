"""Runs of models, data, methods and metrics: planned, survived, merged and reported."""
