"""Judges: models that are asked how a prompt goes on, behind an API, loaded here, or served by llama.cpp for the run."""
