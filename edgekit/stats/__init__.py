"""Statistics on arrays: intervals, paired tests, power, Holm's correction, percentiles, divergence. No tasks."""
