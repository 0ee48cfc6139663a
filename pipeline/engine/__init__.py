"""DeepSpeed: ranks, its JSON, the optimizer, the schedule, and the check of each step.

distributed  the ranks: who am I, how many are we
ds_config    DeepSpeed's JSON, resolved and checked
launch       what the launcher says of a process: rank, world size, where the ranks meet
optim        AdamW and which parameters it decays
rendezvous   where the ranks meet; one that waits says for whom
schedule     learning rate and alpha of each step
step_check   may this step move the weights; takes it, or lets it pass
"""
