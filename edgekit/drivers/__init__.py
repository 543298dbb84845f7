"""System interfaces of backends and machine description: CUDA driver, Jetson board, kernel files, forked processes."""
