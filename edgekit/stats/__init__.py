"""Statistics on arrays: intervals, paired tests, power, Holm's correction, percentiles. No tasks and no files."""
