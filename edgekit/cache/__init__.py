"""The build cache, and records that outlive a process."""
