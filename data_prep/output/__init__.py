"""The output folder: the job it belongs to, its parts, and where it is stored."""
