"""The verbs of the command line as functions of Python, where a verb does more than one function below: files are checked first and written last.

``edgekit/__init__.py`` exports them; a file in ``cli/`` parses the options of a verb and calls its function.
"""

from __future__ import annotations

__all__: list[str] = []
