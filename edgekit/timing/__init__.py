"""The worker process, interleaved timing, probe kernels, scenarios."""
