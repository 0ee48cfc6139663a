"""Before a run: what a recipe resolves to, whether it can start, and its memory, arithmetic and time.

bench       `bench step`: what a recipe's training step costs here
check       `check`: what a recipe resolves to, without a GPU
flops       arithmetic of a step and of a device: MFU
memory      how much memory a recipe takes on each device
operations  counts what a step asks of the device: operations, host waits
order       `order`: which samples each step sees, without a GPU
readiness   all errors with which training would end before its first step
"""
