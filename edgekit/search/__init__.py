"""The search of a build: make candidates, race them, vary the fastest, choose the winner."""
