"""Floor 2: around an engine: trust (digests), cache (what was made before), measure (time and memory)."""
