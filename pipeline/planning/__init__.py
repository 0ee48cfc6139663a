"""Before a run: what a recipe means, whether it can run, what it takes in memory, arithmetic and time.

bench      `bench step`: what a training step costs here
check      `check`: what a recipe means, without a GPU
flops      arithmetic of a step and of a device: MFU
memory     how much memory a recipe takes on each device
order      `order`: which samples each step sees, without a GPU
readiness  what training would refuse before its first step, all at once
"""
