"""Before a run: what a recipe means, whether it can run, what it takes in memory, arithmetic and time."""
