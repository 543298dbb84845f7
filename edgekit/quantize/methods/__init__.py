"""A file is a method; listing this folder is the registration. See :class:`edgekit.quantize.Method`."""
