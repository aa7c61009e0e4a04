"""The planner: memory, arithmetic and communication of a run, computed without the hardware."""
