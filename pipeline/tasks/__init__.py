"""The tasks: what is trained and evaluated, a folder for each.

commands  `pretrain`, and what every command that trains shares
evaluate  `evaluate`: a model against annotations or shards
finetune  `finetune`: a trained model for one of the tasks
makers    how to reach a task by its name
replay    `replay`: a skipped step again
"""
