"""Lists of URLs and captions, as other tools write them, to one normalised list."""
