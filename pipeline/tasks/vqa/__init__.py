"""Visual question answering (VQA 2.0): fine-tuning the answer decoder, and ranking candidate answers.

accuracy  the official accuracy of answers, by type of answer
"""
