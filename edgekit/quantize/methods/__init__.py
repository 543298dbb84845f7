"""The quantization methods: every module of this folder is one. See :class:`edgekit.quantize.Method`."""
