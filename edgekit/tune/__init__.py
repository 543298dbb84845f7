"""Floor 8: candidates (method x backend x shape policy, threads, streams, batch) are measured on this machine; the fastest inside the budget wins.

``race`` measures, ``vary`` says what else is worth measuring, ``shapes`` chooses bucket edges, ``choose`` decides, ``record`` keeps.
Every candidate is a real bundle in a process of its own, so memory and start are its own too.
"""
