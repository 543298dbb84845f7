"""The nouns. Frozen data, its text form, strict parsing and the error tree. No behaviour, no third-party import."""
