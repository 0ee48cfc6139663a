"""The stage between shards and training: which samples stay, and why the others do not.

`filtering.filter_corpus` is the course of it; a rule is a small pure function, told by `settings`. Only commands and
`verify` import from here. Tars are never written.

banding          which samples to compare: tables of bits in which near duplicates meet
corpus           the folder of a filtered corpus, and what it is made from
evaluation_sets  images to be judged on, and what looks like them
features         what the rules need of every sample, read from the tars once
filtering        the course of a filter: features, decisions, outcome
judging          the rules that judge a sample by itself, in a worker
near_duplicates  the leader rule over all that meet
outcome          its manifest, and a line for everything dropped
perceptual_hash  256 bits that say what an image looks like
sample_rules     rules on captions and sizes
settings         the rules in their order, and what they go by
verification     checks it against the tars it names
"""
