"""The stage between shards and training: which samples stay, and why the others are dropped.

`filtering.filter_corpus` runs it; a rule is a small pure function with its thresholds in `settings`. Only commands and
`verify` import from here. Tars are never written.

banding          which samples to compare: tables of bits in which near duplicates meet
corpus           the folder of a filtered corpus, and the record of its inputs
evaluation_sets  images of evaluation sets, and the samples that look like them
features         what the rules need of every sample, read from the tars once
filtering        runs a filter: features, decisions, outcome
judging          the rules that need one sample only, in a worker
near_duplicates  the leader rule over all pairs that meet
outcome          the corpus' manifest, and a line for every dropped sample
perceptual_hash  256 bits of how an image looks
sample_rules     rules on captions and sizes
settings         the rules in their order, with their thresholds
verification     checks a corpus against the tars it names
"""
