"""Before a run: what a recipe resolves to, whether it can start, and its memory, arithmetic and time.

bench           `bench`: what a recipe's training step costs here; flags and printing
bench_baseline  the plain step of `benchmarks/baseline.py`, in a process that takes a step when asked
bench_engine    the trainer's engine and step, on noise
bench_kernels   each fused kernel beside the plain formula
bench_memory    where the peak memory of a step goes, beside the estimate
bench_step      measures a step: time in turns with the baseline, parts, counts, memory
check           `check`: what a recipe resolves to, without a GPU
flops           arithmetic of a step and of a device: MFU
memory          how much memory a recipe takes on each device
operations      counts what a step asks of the device: operations, host waits
order           `order`: which samples each step sees, without a GPU
readiness       all errors with which training would end before its first step
timing          a step's time and processor time, its parts, the process's memory
"""
