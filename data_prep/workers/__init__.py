"""Worker processes: a pool that survives a killed worker, their end, and progress."""
