"""The commands, one file each: `add_flags` says what it takes, `run` does it and returns the exit code.

Only `data_prep.cli` imports from here. Flags that several commands take are in `flags`; the work itself is in
`data_prep.stages`.
"""
