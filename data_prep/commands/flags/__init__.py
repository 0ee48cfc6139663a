"""Flags that commands share, and the types of their values.

column_flags  flags that name the columns of a list
fetch_flags   flags of `download` and `retry`: how images are requested
flag_types    argparse types of the values
job_flags     flags of `download`, `pack` and `import`, and the job they describe
yield_flag    `--min-yield`
"""
