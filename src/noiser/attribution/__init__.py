"""Front doors: attribute a prediction, compare methods, and draw deletion and insertion curves."""
