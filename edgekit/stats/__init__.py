"""Intervals, paired tests, power, Holm, percentiles: numbers only; no task, no files."""
