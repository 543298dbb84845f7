"""What models answer, row by row: in a report (without the texts), and in a file that a teacher left.

A row is known by a keyed hash of its text. A plain hash would give short texts away: whoever has the report could hash a dictionary of
likely sentences and compare. With a key that stays with the user, ids tell only whether two rows are the same.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgekit.modalities.text import UNBOUND
from edgekit.spec.errors import IntegrityError, SamplesError, UsageError
from edgekit.spec.subject import Predictions
from edgekit.tasks.text_classification import Text, TextClassification

Answer = Callable[[Sequence[Text]], np.ndarray]
"""Texts to logits, float32 ``[rows, labels]``: a bundle's process, or a teacher."""

KEY_VARIABLE = "EDGEKIT_ID_KEY"
FILE_TYPES = (".npy", ".npz", ".jsonl")
"""Of a teacher's logits."""

_AGAIN = "The report is damaged: make it again."
_FEWEST_CHARACTERS = 16  # of a key that somebody chose
_KEY_BYTES = 32
_ID_DIGITS = 16  # 64 bits: among a million rows the probability that two texts share an id is 3e-8


def id_key() -> bytes:
    """The key of row ids.

    It is ``EDGEKIT_ID_KEY``, which machines that compare each other's reports share; else a random one, made once and kept in
    ``$XDG_STATE_HOME/edgekit/id.key`` (``~/.local/state/edgekit/id.key``), mode 0600. Where that folder cannot be written or read the key
    is random and lasts as long as the process: ids are then this run's alone, and comparable with no other report's.

    Raises:
        UsageError: when ``EDGEKIT_ID_KEY`` has fewer than 16 characters, or the file holds no key.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given is not None:
        if len(given) < _FEWEST_CHARACTERS:
            remedy = "Set it to a long random text, the same on all machines, or unset it."
            raise UsageError(f"{KEY_VARIABLE} has {len(given)} characters, expected at least {_FEWEST_CHARACTERS}. {remedy}")
        return os.fsencode(given)
    try:
        return _kept_key(_state() / "id.key")
    except OSError:
        return _key_of_this_run()


def row_ids(texts: Sequence[Text], key: bytes) -> tuple[str, ...]:
    """An id for each row: the first 16 hex digits of HMAC-SHA256 (RFC 2104) over the UTF-8 of its text.

    Of a pair the byte 0xFF, the length of the first text in bytes (8 bytes, big-endian) and both texts are hashed.

    Args:
        texts: a text or a pair of texts a row.
        key: as :func:`id_key` gives it.
    """
    return tuple(hmac.digest(key, UNBOUND.content(text), "sha256").hex()[:_ID_DIGITS] for text in texts)


def pack(task: TextClassification, logits: np.ndarray, truth: np.ndarray, ids: Sequence[str]) -> Predictions:
    """Predictions as a report holds them. Each logit is the float32 itself, so that JSON gives the very same one back.

    Args:
        task: whose answers they are.
        logits: float32 ``[rows, labels]``.
        truth: as ``task.parse_labels`` gives it.
        ids: of the rows.

    Raises:
        UsageError: when they are not of the same rows and labels, or a logit is not a finite number.
    """
    shape = (len(ids), len(task.settings.labels))
    given = np.asarray(logits, np.float32)
    if given.shape != shape or len(truth) != len(ids):
        raise UsageError(f"The logits have the shape {list(given.shape)}, expected {list(shape)}: {len(ids)} ids, {len(truth)} labels. Give the same rows.")
    if broken := int((~np.isfinite(given)).any(axis=1).sum()):
        raise UsageError(f"{broken} of {len(ids)} rows of the logits hold NaN or infinity, expected numbers. Such a model cannot be scored: reject it.")
    return Predictions(tuple(ids), _rows(truth.reshape(len(ids), -1).astype(np.float64)), _rows(given))


def unpack(problem_type: str, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Undoes :func:`pack`.

    Args:
        problem_type: of the task that answered.
        predictions: of a report.

    Returns:
        Logits, float32 ``[rows, labels]``, and the truth as ``task.parse_labels`` gives it.

    Raises:
        IntegrityError: when rows are missing or of different lengths, a logit is not a finite number, or a truth is none of the labels.
    """
    rows = len(predictions.ids)
    logits, truth = _table(predictions.logits, rows, "logits").astype(np.float32), _table(predictions.truth, rows, "truth")
    labels = logits.shape[1]
    single = problem_type == "single_label_classification"
    if truth.shape[1] != (1 if single else labels):
        raise IntegrityError(f"The predictions have {truth.shape[1]} numbers of truth a row, expected {1 if single else labels}. {_AGAIN}")
    if problem_type != "regression" and not np.isin(truth, np.arange(labels) if single else (0, 1)).all():
        raise IntegrityError(f"A truth of the predictions is not {f'an index below {labels}' if single else '0 or 1'}. {_AGAIN}")
    if single:
        return logits, truth[:, 0].astype(np.int64)
    return logits, truth.astype(bool) if problem_type == "multi_label_classification" else truth


def read_logits(file: str | Path, rows: int, labels: int) -> np.ndarray:
    """Reads the logits that a teacher left in a file. Nothing in it is run: a pickled array is refused.

    Args:
        file: ``.npy``, ``.npz`` with an array ``logits``, or ``.jsonl`` with an object ``{"logits": [...]}`` a line; any of them ``[rows, labels]``
            in the order of the samples.
        rows: of the samples.
        labels: of the task.

    Returns:
        float32 ``[rows, labels]``.

    Raises:
        UsageError: when the file is missing, cannot be read, or is of another type.
        SamplesError: when it is malformed, of another shape, or holds something that is not a finite number.
    """
    path = Path(file)
    readers: dict[str, Callable[[Path], np.ndarray]] = {".npy": _npy, ".npz": _npz, ".jsonl": _jsonl}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"Predictions {path} end in '{path.suffix}', expected one of: {', '.join(FILE_TYPES)}. Convert or rename the file.")
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UsageError(f"Predictions {path} {what}, expected a file of logits ({', '.join(FILE_TYPES)}). Correct the path.")
    try:
        array = read(path)
    except PermissionError as problem:
        raise UsageError(f"Predictions {path} cannot be read: {problem.strerror}. Check its permissions.") from problem
    except Exception as problem:  # a damaged file brings numpy's, zipfile's, zlib's and tokenize's errors, which have nothing in common
        pickled = any(word in str(problem) for word in ("pickle", "Python object"))
        reason = "it holds pickled objects, which are code" if pickled else str(problem) or "it is cut off"
        raise SamplesError(f"Predictions {path} cannot be read as an array of numbers: {reason}. Save the logits again.") from problem
    if array.shape != (rows, labels):
        remedy = "Give the logits of these samples, a row each and in their order, with a column for each label."
        raise SamplesError(f"Predictions {path} have the shape {list(array.shape)}, expected {[rows, labels]}: rows, labels. {remedy}")
    if array.dtype.kind not in "fiu":
        raise SamplesError(f"Predictions {path} are of the type {array.dtype}, expected numbers. Save the logits as float32.")
    with np.errstate(over="ignore"):  # what does not fit into float32 is infinite there, and refused
        logits = np.array(array, np.float32, order="C")
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        bad = int((~finite).sum())
        raise SamplesError(
            f"Predictions {path} hold NaN, infinity or a number beyond float32 in {bad} of {rows} rows, first in row {int(finite.argmin()) + 1}. "
            "Expected finite logits: let the teacher answer these rows again."
        )
    return logits


def _npy(path: Path) -> np.ndarray:
    # Mapped, so that a header that promises more than the file holds costs no memory.
    found = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        found.close()
        raise ValueError("it is a .npz archive")
    return found


def _npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as found:
        if not isinstance(found, np.lib.npyio.NpzFile):
            raise ValueError("it is no .npz archive")
        if "logits" not in found.files:
            raise ValueError(f"it has no array 'logits', only: {', '.join(found.files) or 'nothing'}")
        return np.asarray(found["logits"])


def _jsonl(path: Path) -> np.ndarray:
    read: list[list[float]] = []
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as problem:
            raise ValueError(f"line {number} is not valid JSON") from problem
        values = record.get("logits") if isinstance(record, dict) else None
        if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
            raise ValueError(f'line {number} is not an object with a list of numbers as "logits"')
        if read and len(values) != len(read[0]):
            raise ValueError(f"line {number} has {len(values)} logits, the lines before it {len(read[0])}")
        read.append(values)
    return np.array(read, np.float64)


def _rows(array: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in array.tolist())


def _table(values: Sequence[Sequence[float]], rows: int, what: str) -> np.ndarray:
    lengths = {len(row) for row in values}
    if len(values) != rows or len(lengths) != 1 or 0 in lengths:
        raise IntegrityError(f"The predictions have {len(values)} rows of {what} of the lengths {sorted(lengths)} for {rows} ids. {_AGAIN}")
    table = np.array(values, np.float64)
    largest = np.finfo(np.float32 if what == "logits" else np.float64).max
    if not (np.abs(table) <= largest).all():  # nor is NaN
        raise IntegrityError(f"The predictions hold {what} that are not finite numbers. {_AGAIN}")
    return table


def _state() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    # The XDG specification: a relative path is invalid and is to be ignored.
    return Path(base if os.path.isabs(base) else os.path.join(os.path.expanduser("~"), ".local", "state")) / "edgekit"


def _kept_key(file: Path) -> bytes:
    """The key in the file, which is made where it is not there.

    Raises:
        OSError: when it cannot be made or read.
        UsageError: when it holds no key.
    """
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".id-", dir=file.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(_KEY_BYTES))
                stream.flush()
                os.fsync(stream.fileno())
            # Unlike a rename, a link never replaces: of two processes at once one makes the key and the other reads it.
            with contextlib.suppress(FileExistsError):
                os.link(name, file)
        finally:
            os.unlink(name)
    key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        remedy = "Remove it: a new key is made, and ids of earlier reports are no longer found again."
        raise UsageError(f"{file} holds {len(key)} bytes, expected a key of {_KEY_BYTES}. {remedy}")
    return key


@functools.cache
def _key_of_this_run() -> bytes:
    return secrets.token_bytes(_KEY_BYTES)
