"""The search over candidates: make, race, vary, choose."""
