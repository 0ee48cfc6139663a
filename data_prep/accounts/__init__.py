"""What became of every listed row: counts, the datasheet, the state of an array of parts."""
