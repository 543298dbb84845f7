"""Export of a model to ONNX graphs: a source becomes a graph set."""
