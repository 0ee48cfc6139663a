"""What became of every listed row: counts, the datasheet, the state of an array of parts.

accounting    what became of every listed row of a job
array_status  what all the parts of a job are doing, for `status`
datasheet     datasheet.json: every listed row of a corpus, and what it was made with
min_yield     how much of what was listed must become samples
"""
