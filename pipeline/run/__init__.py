"""The run folder: what is in it, its lock, its metrics and logs."""
