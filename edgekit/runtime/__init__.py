"""What runs on the device: session, the loops that drive graphs, the worker process that measures sessions."""
