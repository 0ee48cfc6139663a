"""While a run trains: heartbeats, signals, slow and skipped steps; and what `status` and `replay` show.

heartbeat          ends the job when a rank died, is silent or is stuck, and names the rank
heartbeat_wire     the connections that carry heartbeats
launcher           ends a rank whose launcher was killed
nonfinite          finds where a forward and backward stops being finite
replay             repeats a skipped step and shows what goes wrong in it
skipped_step_dump  the contents of a skipped step's dump
skipped_steps      counts, logs and dumps skipped steps; too many in a row end the run
slow_steps         logs steps that take many times as long as the recent median
status             `status`: how far a run is, from its folder alone
stop_signals       signals and the stop file, on which the ranks agree
"""
