"""Errors by their code: what every test of a refusal uses."""

from __future__ import annotations

import contextlib

import pytest

from edgekit.spec.errors import EdgekitError


@contextlib.contextmanager
def refused(code, kind=EdgekitError, **fields):
    """Expects an error with a code.

    Args:
        code: code of the error.
        kind: its class, or a class above it.
        **fields: values that the error's fields have to hold.

    Yields:
        What ``pytest.raises`` yields.
    """
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error.code}: {error}"
    held = {name: error.fields.get(name) for name in fields}
    assert held == fields, f"{error}"
