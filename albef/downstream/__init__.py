"""The models of the paper's tasks after pretraining (section 4), each with its loss and its answers.

answer_decoder  causal text decoder that reads a fused question
snli_ve         visual entailment: does a text follow from an image?
vqa             visual question answering: training loss, ranking, generation
"""
