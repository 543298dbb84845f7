"""Raw outputs of a session's calls, as an evaluation needs them beside the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekit.runtime._inputs import list_of
from edgekit.runtime.session import Session
from edgekit.spec.errors import InputError
from edgekit.spec.protocols import Arrays, Input

__all__ = ["answer_list", "answer_one"]


def answer_one(session: Session, value: Input) -> tuple[Any, Arrays, bool]:
    """Predict one input with the steps of a call of the session, so that its time is that of a call.

    Args:
        session: Open session.
        value: Input as for a call with one.

    Returns:
        The task's answer, the raw outputs by name without a batch axis, and whether the input was truncated.

    Raises:
        InputError: If the input is refused, or is a list.
        OutputError: If an output is not finite.
    """
    with session._calls:
        if list_of(value) is not None:
            raise InputError("Expected one input and not a list. Give its parts one by one.", code="input-type")
        if not session._has_warned:
            session._warn_form([value])
        encoded = session._task.preprocess([value])
        outputs = session._runner.run([encoded[0].arrays], alone=True)
        return session._task.postprocess(outputs, encoded)[0], outputs[0], encoded[0].truncated


def answer_list(session: Session, inputs: Sequence[Input]) -> tuple[list[Arrays], int]:
    """Run inputs in batches as a call with a list does.

    Args:
        session: Open session.
        inputs: Inputs as for a call with a list.

    Returns:
        The raw outputs of each input by name without a batch axis, and the number of inputs that were truncated.

    Raises:
        InputError: If an input is refused.
        OutputError: If an output is not finite.
    """
    with session._calls:
        encoded = session._task.preprocess(list(inputs))
        outputs = session._runner.run([row.arrays for row in encoded])
        return outputs, sum(row.truncated for row in encoded)
