"""A file is a modality: one kind of input, how it is read, measured, generated and disturbed. See :class:`edgekit.spec.protocols.Modality`."""
