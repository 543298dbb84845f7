"""This machine: CPU features, memory, energy, load and fingerprint."""
