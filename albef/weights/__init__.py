"""Weights: where they start, the official checkpoint's layout, and files of them.

beside_weights      discards objects that scripts pickle beside the weights, without running them
files               reads weight files, and loads them with nothing missing or left over
initialise          starting weights from DeiT and BERT files
model_folder        the files of a model folder, and whether it may be overwritten
official            to and from the layouts of the official checkpoints, bit for bit
official_layouts    the kinds of official checkpoints: keys, order, how each is recognised
official_names      the official names of the parts of a model
position_embedding  resizes position embeddings to another number of patches
tensor_file         reads and writes .safetensors files
to_task             starts a task's model from pretraining's weights: copied, new, left out
"""
