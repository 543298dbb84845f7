"""Source -> GraphSet. A file is a way of driving a model: ``single`` is one forward pass."""
