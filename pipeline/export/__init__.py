"""What the exports of all tasks share: the output folder and the model card.

A task's own export is in its folder: `pipeline/tasks/pretraining/export.py`.

model_card     the card of an exported model
output_folder  a folder that is written whole or not at all
"""
