"""The page of `data_prep report`: what is counted of a corpus, and how it is drawn.

Imports nothing but data_prep, pyarrow, numpy and Pillow; whatever came from the web is escaped where it is drawn
(`page`, `charts`). Memory is bounded however large the corpus is: counters forget the rare (`counters`), single samples
are looked at in some shards only (`look`), and the page says in how many.

charts      histograms as inline SVG
counters    counting in bounded memory
hosts       failures by host
look        the JSON of some shards' samples, and random pictures
page        the page of `report`; everything from the web is escaped here
suspicious  shards unlike the others of their source
"""
