"""Results in a terminal, one file a result."""
