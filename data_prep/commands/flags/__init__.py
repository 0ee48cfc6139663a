"""Flags that commands share.

column_flags  flags that name the columns of a list
fetch_flags   flags of `download` and `retry`: how images are requested
job_flags     flags of `download`, `pack` and `import`, and the job they describe
yield_flag    `--min-yield`
"""
