"""Training, evaluation and export of ALBEF with DeepSpeed. Start reading at `train.py`.

The only package that imports deepspeed. Imports `albef`; meets `data_prep` through files only (shards, manifest).
"""
