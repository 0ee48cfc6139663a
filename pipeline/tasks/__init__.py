"""What is trained and evaluated, a folder for each task.

commands  `pretrain`
evaluate  `evaluate`: a model against annotations or shards
"""
