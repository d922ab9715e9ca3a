"""The web app's server: a page and a small JSON interface in front of one model, for one person or a few.

Importing it loads neither torch nor transformers: the server listens before the model is read.
"""
