"""The commands, one file each: `add_flags` says what it takes, `run` does it and returns the exit code.

Only `data_prep.cli` imports from here. Flags that several commands take are in `flags`; the work itself is in
`data_prep.stages`.

download     `download`: its flags, and what it does with them
filter       `filter`
import_tars  `import`
list_source  `list`
pack         `pack`
report       `report`
retry        `retry`
run_job      the course of `download` and `pack`: list, shards, manifest, report
sources      `sources`
status       `status`
verify       `verify`
"""
