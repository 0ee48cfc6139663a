"""The configuration of a run: recipes, flags, every key with its meaning."""
