"""Learning the generated world, every task of it: `python -m demo.tasks`, or `make tasks`.

image_encoder  where ALBEF's image encoder starts from, as the paper's from DeiT
matching       the accuracy of a pretrained model on balanced pairs
table          what was learned beside what guessing scores
"""
