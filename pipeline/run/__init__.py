"""The run folder: what is in it, its lock, its metrics and logs.

atomic_file       files that are whole or as they were
data_fingerprint  a run goes on with the data it began with
event_file        TensorBoard's file of one start
folder            where everything of a run lies; may it go on there
lock              one run in a folder at a time
logs              where log lines go
markdown          text of strangers in Markdown: no markup, no HTML
metrics           scalars: metrics.jsonl, TensorBoard, the console line
metrics_file      the lines of metrics.jsonl: which count, which are damaged
progress          progress of evaluation: a bar on a terminal, lines in a log; durations
retrying_file     a file of records that survives a full disk
"""
