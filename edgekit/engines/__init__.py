"""Engines of a device: compile them from graphs where they run, and keep them."""
