"""The networks: image, text and multimodal encoder, and what they are built of.

attention  the attention half of a BERT layer
encoders   what models are built of: encoders, projections, MLM head
fusion     multimodal encoder: BERT's second half with cross-attention
layers     dropout, the feed-forward half of a BERT layer, and the head of masked language modelling
pairs      one pass of the multimodal encoder over pairs, negatives and masked texts
text       text encoder: BERT's embeddings and first half
vision     image encoder: timm's vision transformer
"""
