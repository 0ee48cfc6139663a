"""DeepSpeed: ranks, its JSON, the optimizer, the schedule, and the check of each step.

adamw             AdamW on the CPU: one pass, the same bits for any partition
compile           torch.compile: whole graphs or an error, and sizes that may vary
deterministic     `--deterministic`: algorithms that give the same bits every time
distributed       the ranks: this process's number, the world size, collectives
ds_config         DeepSpeed's JSON, resolved and checked
fewer_operations  what DeepSpeed does twice or for nothing, left out
launch            the launcher's variables: rank, world size, where the ranks meet
new_student       a run's model before its starting weights are loaded
optim             AdamW and which parameters it decays
rendezvous        waits until all ranks have started, and logs which are missing
schedule          learning rate and alpha of each step
state_bytes       bytes of weights, gradients and optimizer as they lie in memory
step_check        checks losses and gradient of a step, then takes the step or skips it
"""
