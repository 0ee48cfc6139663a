"""Which samples each step and lane sees: shuffling, mixing, lanes. Pure functions of the seed.

epoch_order   which samples each step and lane holds
lane_plan     from manifest to each rank's tasks
lanes         what a lane reads, as workers are told; which lanes a rank takes
mixture       several sources with weights: what an epoch takes of each
replacements  who stands in for a bad sample
"""
