"""Models behind a server: their rows are completions with prompt embeddings, and nothing of the model but its embedding table is here."""
