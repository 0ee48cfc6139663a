"""Flags that commands share, and the types of their values.

column_flags  flags that name the columns of a list
fetch_flags   flags of `download` and `retry`: how servers are asked
flag_types    what the values of flags may be
job_flags     flags of `download` and `pack`, and the job they describe
yield_flag    `--min-yield`
"""
