"""What every command of the project shares.

At the bottom: imports the standard library only, and nothing of this project. `samples` is what the data have in
common; `base` is what the programs have in common.

atomic_file       files that are replaced whole or not at all
charts            charts as inline SVG, and the style of pages with charts
child_process     a command as a child that does not outlive this process
errors            errors that a user can cause and fix: message, hint, exit code
flag_types        types of the values of flags: positive, share, seconds
nearest           the nearest valid name, for hints
parser            argparse whose errors have a hint
progress          a bar on a terminal, lines in a log; durations as text
standard_streams  stdout and stderr that may be on a full disk or closed
"""
