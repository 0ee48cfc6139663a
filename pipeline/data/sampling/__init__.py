"""Which samples each step and lane sees: shuffling, mixing, lanes. Pure functions of the seed."""
