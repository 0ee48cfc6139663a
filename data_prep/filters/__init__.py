"""The stage between shards and training: which samples stay, and why the others do not.

`filtering.filter_corpus` is the course of it; a rule is a small pure function, told by `settings`. Only commands and
`verify` import from here. Tars are never written.
"""
