"""Engines of a device: compile them from graphs on the device that runs them, and cache them there."""
