"""The run folder: what is in it, its lock, its metrics and logs.

data_fingerprint  data.json: a run resumes only on the data it started with
event_file        TensorBoard's file of one start
folder            the paths of a run, and whether a recipe may resume there
lock              one run in a folder at a time
logs              where log lines go
markdown          untrusted text in Markdown: no markup, no HTML
metrics           scalars: metrics.jsonl, TensorBoard, the console line
metrics_file      the lines of metrics.jsonl: which are valid, which are damaged
retrying_file     a file of records that survives a full disk
step_trace        a trace of a few steps, for TensorBoard and Perfetto
training_data     training_data.json: what a model was trained on, and whether it is evaluated on that
"""
