"""The page of `data_prep report`: what is counted of a corpus, and how it is drawn.

Imports only data_prep, pyarrow, numpy and Pillow; everything that came from the web is escaped where it is drawn
(`page`). Memory is bounded for a corpus of any size: counters drop rare names (`counters`), and single
samples are read in some shards only (`sample_stats`); the page states in how many.

counters      counting in bounded memory
hosts         failures by host
page          the page of `report`; everything from the web is escaped here
sample_stats  the JSON of some shards' samples, and random pictures
suspicious    shards unlike the others of their source
"""
