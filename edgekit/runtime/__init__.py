"""Code that runs on the device: the session, the loops that run graphs, and the choice among a bundle's variants."""
