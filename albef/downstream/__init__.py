"""The models of the paper's tasks after pretraining (section 4), each with its loss and its answers.

alignment       text assignment, the pretraining of NLVR2: which of two images has a text?
answer_decoder  causal text decoder that reads a fused question
nlvr2           is a statement true of two images?
paired_fusion   encoders of a text with two images
retrieval       image-text retrieval, and grounding, which trains the same
snli_ve         visual entailment: does a text follow from an image?
teacher         the momentum teacher of a task that averages its whole model
vqa             visual question answering: training loss, ranking, generation
"""
