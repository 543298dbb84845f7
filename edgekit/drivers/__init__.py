"""What backends and this machine's description ask of the system: NVIDIA's driver by ctypes, the Jetson board, forked processes."""
