"""The commands, one file each: `add_flags` adds a command's flags, `run` runs it and returns the exit code.

Only `data_prep.cli` imports from here. Flags that several commands take are in `flags`; the work itself is in
`data_prep.stages`.

download     `download`
filter       `filter`
import_tars  `import`
list_source  `list`
pack         `pack`
refer        `refer`
report       `report`
retry        `retry`
run_job      what `download`, `pack`, `import` and `retry` share: list, shards, manifest, report
sources      `sources`
status       `status`
verify       `verify`
"""
