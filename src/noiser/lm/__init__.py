"""From a name to a model that answers: loading, tokens, and the engine that runs perturbed rows."""
