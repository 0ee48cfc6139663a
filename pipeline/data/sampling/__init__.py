"""Which samples each step and lane sees: shuffling, mixing, lanes. Pure functions of the seed.

epoch_order   which samples each step and lane holds
lane_plan     from the corpus to each rank's tasks
lanes         a lane's samples, in the form that workers get; which lanes a rank takes
mixture       several sources with weights: which samples an epoch takes of each
replacements  the samples that replace a bad one
"""
