"""Errors by their code: what every test of a refusal uses."""

from __future__ import annotations

import contextlib

import pytest

from edgekit.spec.errors import EdgekitError


@contextlib.contextmanager
def refused(code, *values, **fields):
    """Expects an error with a code.

    Args:
        code: code of the error; or, in tables of cases, a tuple of the code and the values.
        *values: strings that the message has to hold: names, numbers and paths of the case, not words of a sentence.
        **fields: values that the error's fields have to hold.

    Yields:
        What ``pytest.raises`` yields.
    """
    if isinstance(code, tuple):
        code, *values = code
    with pytest.raises(EdgekitError) as caught:
        yield caught
    error = caught.value
    try:
        assert error.code == code, f"{error.code}: {error}"
        missing = [value for value in values if str(value) not in str(error)]
        assert not missing, f"{missing} not in: {error}"
        actual = {name: error.fields.get(name) for name in fields}
        assert actual == fields, str(error)
    finally:
        # The traceback refers to this frame. Without these references its objects are freed without garbage collection.
        del error, caught
