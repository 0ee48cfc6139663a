"""The pretraining objective: losses, hard negatives, masked tokens, and the queue of features.

losses     ITM, MLM and the losses of classes as pure functions, in nats
masking    masks tokens, 80/10/10
negatives  draws hard negatives for ITM
queue      the ring of features and its all-gather
"""
