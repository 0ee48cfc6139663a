"""Exit codes of the commands beyond 0 (done), 1 (a bug) and 2 (the user's mistake); slurm/lib.sh has them too."""

from __future__ import annotations

STOPPED_AND_SAVED = 75
"""A run was asked to stop and has saved (EX_TEMPFAIL): the same command resumes it."""
LOST = 69
"""A process of the run ended or is stuck (EX_UNAVAILABLE): nothing was saved, the same command resumes from the last
checkpoint."""
