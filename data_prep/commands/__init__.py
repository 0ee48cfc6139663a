"""The commands, one file each: `add_flags` says what it takes, `run` does it and returns the exit code.

Only `data_prep.cli` imports from here. What a command is made of lies one folder up.
"""
