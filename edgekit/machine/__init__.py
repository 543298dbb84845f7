"""This machine: CPU features, memory, energy, load, fingerprint."""
