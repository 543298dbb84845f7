"""Bundles as folders and files: write, read, check, pack, sign and install."""
