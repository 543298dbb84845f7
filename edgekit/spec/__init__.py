"""Domain data: frozen dataclasses, their text form, strict parsing and errors. No third-party import but numpy."""
