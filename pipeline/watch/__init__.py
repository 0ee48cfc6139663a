"""While a run trains: heartbeats, signals, slow and skipped steps; and looking at a run from outside."""
