"""Python functions of the command-line verbs that combine several functions of the packages below.

They check files first and write files last. ``edgekit/__init__.py`` exports them; a file in ``cli/`` parses the options
of a verb and calls its function.
"""

from __future__ import annotations

__all__: list[str] = []
