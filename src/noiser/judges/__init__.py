"""Judges: models that read some words of a prompt and say how the prompt continues.

A judge runs behind an API (`openai:`), in this process (`local:`) or in llama.cpp's server (`llama:`).
"""
