"""Floor 4: what was measured, as numbers and as text."""
