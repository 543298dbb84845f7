"""Build cache, and small records that outlive a process."""
