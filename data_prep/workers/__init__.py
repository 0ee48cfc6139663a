"""Worker processes: a pool that does not hang when a worker is killed, the end of workers, and progress.

orphans      ends a worker when its parent is gone
progress     a bar on a terminal, lines in a log
worker_pool  workers that do not hang when one is killed
"""
