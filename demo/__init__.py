"""The whole job on two CPU cores: serve pictures, download, pretrain, evaluate, export, report (`make demo`).

Orchestration only: data_prep and pipeline are run as the commands a user would type; of the project's code only
`albef` is imported, to look at what the exported model does. Nothing imports demo.
"""
