"""Error classes of EdgeKit.

    EdgekitError
    |- UsageError               wrong call: an unknown name, a wrong type, an output folder that exists
    |  |- InputError            invalid input of a session
    |- ModelError               a model is missing, unsafe or not supported
    |- SamplesError             calibration or evaluation samples are missing, malformed or too few
    |  |- ReferenceDoubtError   the torch model is not better than chance on the evaluation samples
    |- CompressError            distillation or pruning failed: training diverged, out of memory
    |- ExportError              the exported graph differs from the model
    |- QuantizeError            a graph cannot be quantized with these settings
    |- BackendError             a backend is not installed, or refuses a graph or an option
    |- OutputError              a graph returned NaN or infinity
    |- BuildError               a build cannot finish: disk full, a step failed
    |- BudgetError              no candidate meets the target's budget
    |- RemoteError              a device is unreachable, or a command on it failed
    |- IntegrityError           a bundle is modified, incomplete or unsafe
       |- FormatError           a bundle has a format that this version cannot read

Every message says what happened, what was expected and what to do. Every error has a stable ``code``;
``docs/reference/errors.md`` lists the codes. The library raises errors and prints nothing. The command line prints the
message and exits with ``exit_code``: 0 pass, 1 tool error, 2 usage, 3 over budget or regression, 4 incomparable (or
inconclusive with ``--strict``), 5 integrity.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "MOST",
    "BackendError",
    "BudgetError",
    "BuildError",
    "CompressError",
    "EdgekitError",
    "ExportError",
    "FormatError",
    "InputError",
    "IntegrityError",
    "ModelError",
    "OutputError",
    "QuantizeError",
    "ReferenceDoubtError",
    "RemoteError",
    "SamplesError",
    "UsageError",
    "check_known",
    "near",
]

MOST = 20_000
"""Maximum length of a message, in characters; the rest is cut off."""


class EdgekitError(Exception):
    """Base of all errors that EdgeKit raises on purpose.

    Attributes:
        code: Stable name of the cause: lower-case words joined by hyphens, e.g. ``samples-no-column``. Programs and
            tests compare it; the message may change between releases.
        fields: Values of the error for programs, e.g. ``{"row": 3}``. The keys depend on the code.
        exit_code: Exit status of the command line, one value per class.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, code: str = "error", **fields: str | float | None) -> None:
        """Create an error.

        Args:
            message: Text for the user, cut to :data:`MOST` characters.
            code: Stable name of the cause.
            **fields: Values of the error for programs.
        """
        super().__init__(_cap_length(message))
        self.code = code
        self.fields = fields

    def reworded(self, message: str, kind: type[EdgekitError] | None = None) -> EdgekitError:
        """Return the same error with another message, e.g. one that adds the file name.

        Args:
            message: New text.
            kind: New class; None keeps the class.
        """
        return (kind or type(self))(message, code=self.code, **self.fields)


def _cap_length(text: str) -> str:
    """Cut a text to :data:`MOST` characters, and append the number of characters that are missing."""
    if len(text) <= MOST:
        return text
    return f"{text[:MOST]} ... ({len(text) - MOST} characters more)"


class UsageError(EdgekitError):
    """The call is wrong: an unknown name or key, a wrong type, an output folder that exists."""

    exit_code = 2


class InputError(UsageError, ValueError):
    """An input of a session is invalid."""


class ModelError(EdgekitError):
    """A model folder or hub id cannot be used."""

    exit_code = 2


class SamplesError(EdgekitError):
    """Samples are missing, malformed or too few."""

    exit_code = 2


class ReferenceDoubtError(SamplesError):
    """The torch model is not better than chance on the evaluation samples.

    The model, the tokenizer, the sample table or the labels may have been misread.
    """


class CompressError(EdgekitError):
    """A model cannot be distilled or pruned with these settings."""


class ExportError(EdgekitError):
    """The exported graph or the exported tokenizer differs from the model."""


class QuantizeError(EdgekitError):
    """A graph cannot be quantized with these settings."""


class BackendError(EdgekitError):
    """A backend is not installed, or refuses a graph or an option."""


class OutputError(EdgekitError):
    """A graph returned NaN or infinity."""


class BuildError(EdgekitError):
    """A build could not finish."""


class BudgetError(EdgekitError):
    """No candidate meets the budget. Nothing was written."""

    exit_code = 3


class RemoteError(EdgekitError):
    """A device is unreachable, lacks what a bundle needs, or a command on it failed."""


class IntegrityError(EdgekitError):
    """A bundle is modified, truncated, incomplete, or contains a file that it does not list."""

    exit_code = 5


class FormatError(IntegrityError):
    """A bundle has a format that this version cannot read."""


def check_known(
    names: Iterable[object],
    known: Iterable[str],
    kind: str,
    where: str = "",
    *,
    listed: str = "",
    error: type[EdgekitError] = UsageError,
    code: str = "name-unknown",
) -> None:
    """Refuse the first unknown name, and suggest the nearest known one.

    Args:
        names: Names to check.
        known: Valid names.
        kind: Noun for a name in the message, e.g. ``key``.
        where: Text that follows the name in the message, e.g. `` in gates.toml``.
        listed: Text that introduces the valid names; by default ``Known keys`` for the kind ``key``.
        error: Class of the error.
        code: Code of the error.

    Raises:
        EdgekitError: If a name is unknown; its class is ``error``.
    """
    known = list(known)
    for name in names:
        if name in known:
            continue
        heading = listed or f"Known {kind}s"
        message = f"Unknown {kind} '{name}'{where}.{near(str(name), known)} {heading}: {', '.join(known)}."
        raise error(message, code=code, kind=kind, name=str(name))


def near(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known name that is nearest, or an empty string if none is close."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{matches[0]}'?" if matches else ""
