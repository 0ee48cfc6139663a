"""Before a run: what a recipe resolves to, whether it can start, and its memory, arithmetic and time.

bench      `bench step`: what a training step costs here
check      `check`: what a recipe resolves to, without a GPU
flops      arithmetic of a step and of a device: MFU
memory     how much memory a recipe takes on each device
order      `order`: which samples each step sees, without a GPU
readiness  all errors with which training would end before its first step
"""
