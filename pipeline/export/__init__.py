"""Model folders: from a checkpoint, from the official weights, and the files beside the weights.

from_checkpoint  `export`: a checkpoint to a model folder or the official .pth
from_official    `import`: an official .pth to a model folder
model_card       the card of an exported model
output_folder    a folder that is written whole or not at all
"""
