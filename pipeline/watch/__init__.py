"""While a run trains: heartbeats, signals, slow and skipped steps; and looking at a run from outside.

heartbeat          a rank that died, is silent or stuck ends the job, by name
heartbeat_wire     how heartbeats travel
launcher           a rank leaves when what started it was killed
nonfinite          where a forward and backward stops being finite
replay             `replay`: a skipped step again, and what goes wrong in it
skipped_step_dump  what a dump of a skipped step holds
skipped_steps      skipped steps: counted in a row, told, dumped; too many end the run
slow_steps         tells of steps that take many times as long as usual
status             `status`: how far a run is, from its folder alone
stop_signals       signals and the stop file; the ranks agree
"""
