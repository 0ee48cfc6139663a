"""DeepSpeed: ranks, its JSON, the optimizer, the schedule, and the check of each step."""
