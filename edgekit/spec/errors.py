"""The error tree.

    EdgekitError
    |- UsageError            the call itself is off: an unknown name, a wrong type, an existing output folder
    |  |- InputError         what a session was called with
    |- ModelError            the model cannot be taken: missing, unsafe, unsupported
    |- SamplesError          calibration or evaluation samples cannot be used
    |  |- ReferenceDoubtError  the model's answers have nothing to do with the labels of the samples
    |- CompressError         a model cannot be made smaller as asked: training diverged, memory does not suffice
    |- ExportError           the exported graph is not the model
    |- QuantizeError         a graph cannot be quantized as asked
    |- BackendError          a backend is missing, or refuses a graph
    |- OutputError           a graph computed what is no answer: NaN or infinity
    |- BuildError            a build cannot finish (disk full, a step that failed)
    |- BudgetError           no candidate is inside the target's budget
    |- RemoteError           a device cannot be reached, or fails at what it was asked to do
    |- IntegrityError        a bundle is altered, incomplete or unsafe
       |- FormatError        a bundle of another format version

Every message says what happened, what was expected and what to do; every error has a stable ``code``, which
``docs/reference/errors.md`` lists. The library raises; only the command line prints and turns an error into
``exit_code`` (0 pass, 1 tool error, 2 usage, 3 over budget or regression, 4 incomparable or, with ``--strict``,
inconclusive, 5 integrity).
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
"""Characters of a message; the rest is left out."""


class EdgekitError(Exception):
    """Base of all errors that EdgeKit raises on purpose.

    Attributes:
        code: stable name of the cause, lower-case words joined by hyphens, e.g. ``samples-no-column``. Programs and
            tests compare it; the message may change between releases.
        fields: values of the error for programs, e.g. ``{"row": 3}``; which ones depends on the code.
        exit_code: exit status of the command line, one value per class.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, code: str = "error", **fields: str | float | None) -> None:
        """Creates an error.

        Args:
            message: text for the user; text beyond :data:`MOST` characters is cut.
            code: stable name of the cause.
            **fields: values of the error for programs.
        """
        super().__init__(_capped(message))
        self.code = code
        self.fields = fields

    def reworded(self, message: str, kind: type[EdgekitError] | None = None) -> EdgekitError:
        """Returns the same error with another message, for a caller that knows the place better.

        Args:
            message: the new text.
            kind: the new class; None keeps the class.
        """
        return (kind or type(self))(message, code=self.code, **self.fields)


def _capped(text: str) -> str:
    """At most :data:`MOST` characters, with how many were left out."""
    return text if len(text) <= MOST else f"{text[:MOST]} ... ({len(text) - MOST} characters more)"


class UsageError(EdgekitError):
    """The call is off: an unknown name or key, a wrong type, an output folder that exists."""

    exit_code = 2


class InputError(UsageError, ValueError):
    """A session was called with something it cannot take."""


class ModelError(EdgekitError):
    """The model folder or hub id cannot be taken."""

    exit_code = 2


class SamplesError(EdgekitError):
    """Samples are missing, malformed or too few."""

    exit_code = 2


class ReferenceDoubtError(SamplesError):
    """The torch model is no better than chance on the evaluation samples: model, tokenizer, table or labels may have been misread."""


class CompressError(EdgekitError):
    """A model cannot be made smaller as asked."""


class ExportError(EdgekitError):
    """The exported graph, or the exported tokenizer, does not compute what the model computes."""


class QuantizeError(EdgekitError):
    """A graph cannot be quantized as asked."""


class BackendError(EdgekitError):
    """A backend is not installed, or refuses a graph or an option."""


class OutputError(EdgekitError):
    """A graph computed what is no answer: NaN or infinity."""


class BuildError(EdgekitError):
    """A build could not finish."""


class BudgetError(EdgekitError):
    """No candidate is inside the budget; nothing was written."""

    exit_code = 3


class RemoteError(EdgekitError):
    """A device cannot be reached, lacks what a bundle needs there, or failed at what it was asked to do."""


class IntegrityError(EdgekitError):
    """A bundle is altered, truncated, incomplete, or holds something that it does not list."""

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
    """Refuses the first name that is not known, with the nearest one that is.

    Args:
        names: what was named.
        known: what there is.
        kind: what a name is of: ``key``.
        where: the place, behind the name.
        listed: what comes before those that are known; by default ``Known keys``.
        error: its type.
        code: the error's code.

    Raises:
        EdgekitError: of that type.
    """
    known = list(known)
    for name in names:
        if name not in known:
            message = f"Unknown {kind} '{name}'{where}.{near(str(name), known)} {listed or f'Known {kind}s'}: {', '.join(known)}."
            raise error(message, code=code, kind=kind, name=str(name))


def near(name: str, known: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` when ``name`` is close to a known one, otherwise an empty string."""
    match = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{match[0]}'?" if match else ""
