"""The tasks: what is trained and evaluated, a folder for each.

commands  `pretrain`
evaluate  `evaluate`: a model against annotations or shards
replay    `replay`: a skipped step again
"""
