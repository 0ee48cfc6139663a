"""Learning the generated world.

image_encoder  where ALBEF's image encoder starts from, as the paper's from DeiT
"""
