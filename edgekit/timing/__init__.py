"""Latency measurement: worker processes, interleaved timing, probe kernels and MLPerf-style scenarios."""
