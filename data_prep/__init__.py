"""From URLs and local images to verified tar shards with a manifest. Runs on download nodes: never imports torch.

cli     the commands, and how errors end
errors  errors that a user can fix
"""
