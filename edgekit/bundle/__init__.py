"""A bundle as a folder and a file: write, read, check, pack, sign, install."""
