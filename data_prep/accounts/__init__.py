"""What became of every listed row: counts, the datasheet, the state of an array of parts.

accounting    what became of every listed row of a job
array_status  what all the parts of a job are doing, for `status`
datasheet     datasheet.json: the outcome of every listed row of a corpus, and what made it
min_yield     the least share of the listed rows that must become samples
"""
