"""`pipeline ablate`: the paper's ablation table. Each run is a command of the project, in a process of its own.

command  `ablate`: what is left, row after row, and the outcome
plan     what a plan may contain, and its recipes resolved
rows     the six rows and their switches
runs     the commands of a row and a seed, their folders, and what starts them
table    from results to table.json and table.md; equal budgets
"""
