"""Worker processes: a pool that does not hang when a worker is killed, and the end of workers.

orphans      ends a worker when its parent is gone
worker_pool  workers that do not hang when one is killed
"""
