"""Opening of a bundle for prediction: verification, choice of the variant, and the session."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from edgekit.bundle.signature import Trust
from edgekit.bundle.trust import Bundle, open_bundle
from edgekit.machine.cpu import cpus
from edgekit.modalities.limits import Limit
from edgekit.runtime.choice import Choice, cap_threads, check_golden, check_instructions, select_variant
from edgekit.runtime.session import Session
from edgekit.runtime.stand_in import stand_in_variants
from edgekit.spec.errors import BackendError, InputError, IntegrityError, UsageError, near
from edgekit.spec.manifest import Variant
from edgekit.spec.paths import takes_paths
from edgekit.spec.progress import Progress, silent

__all__ = ["load", "load_checked"]

_LOG = logging.getLogger(__name__)

# A backend creates as many threads as requested. A hundred thousand would exhaust the memory before it fails.
_MAX_THREADS = 256


@takes_paths("bundle")
def load(
    bundle: str | os.PathLike[str],
    *,
    backend: str | None = None,
    threads: int | None = None,
    trust: Trust | None = None,
    max_characters: int | None = None,
    truncate: bool = False,
    progress: Progress = silent,
) -> Session:
    """Open a bundle for prediction, after all of its files are verified.

    A bundle that was built to be raced on the device is raced at its first load here, and the winner is remembered.
    TensorRT engines that it needs are compiled and cached then, which can take minutes; ``edgekit compile`` does it
    beforehand.

    Args:
        bundle: Folder that ``edgekit build`` wrote.
        backend: Backend of the bundle that runs the model; None for the best one. ``onnxruntime`` for a bundle without
            that backend is a stand-in: it runs the device's graph on this CPU. The answers are those of the device
            except for rounding, the latency is not.
        threads: Number of threads per call, or of concurrent calls on a GPU; None for the number that the bundle was
            tuned with, limited to the number of CPUs and by the CPU quota of a container (rounded down, at least 1).
        trust: Keys of the makers whose bundles may be opened, e.g. ``Trust(keys=["maker.pub"])``; None for any maker.
            Engines that a bundle contains are loaded only with a trusted key.
        max_characters: Largest number of characters of a text, or of each text of a pair, with each run of white space
            counted as one; None for 64 per token of the longest row that the model reads. A longer text is an
            InputError.
        truncate: Whether a longer text is cut at the border of a word or pre-token instead of refused. Its answer is
            marked as ``truncated``. The token ids are those of the whole text if the rest fills the model's longest row
            and the tokenizer works word by word. They may differ for a text that begins with many characters without
            tokens, for one endless word, and for a model that reads the end of a text (``truncation_side``).
        progress: Progress callback of an engine's compilation.

    Returns:
        Open session. Close it, or use it as a context manager.

    Raises:
        IntegrityError: If the bundle is modified, incomplete, of a newer format, or not signed by a key of ``trust``.
            Also if it contains an engine and ``trust`` is None.
        BackendError: If the backend is not in the bundle, is not installed, or refuses the graph; if an engine compiled
            here, or the backend on another kind of machine than the build's, fails the golden-output check; or if the
            CPU lacks required instructions. A bundle that races on the device uses another of its variants instead, if
            one can run.
        InputError: If ``threads`` or ``max_characters`` is below 1 or too large.
        UsageError: If ``trust`` is not a Trust.
    """
    if trust is not None and not isinstance(trust, Trust):
        raise UsageError(
            f"trust is a {type(trust).__name__}, expected edgekit.Trust(keys=[...]) or None. "
            "Put the path of a key file into a Trust.",
            code="trust-type",
        )
    # The limit is checked before the bundle is read, so that a wrong number is reported at once.
    Limit(1 if max_characters is None else max_characters, truncate)
    opened = open_bundle(Path(bundle), trust)
    try:
        session = load_checked(opened, backend=backend, threads=threads, progress=progress)
    except (BackendError, IntegrityError):
        if not opened.is_replaced():
            raise
        # Another bundle replaced this one after it was verified, so files were missing or belonged to the other bundle.
        session = load_checked(open_bundle(Path(bundle), trust), backend=backend, threads=threads, progress=progress)
    session.limit(max_characters, truncate)
    return session


def load_checked(
    opened: Bundle, *, backend: str | None = None, threads: int | None = None, progress: Progress = silent
) -> Session:
    """Open a verified bundle for prediction.

    Args:
        opened: Verified bundle.
        backend: Backend of the bundle, as for :func:`load`.
        threads: Number of threads, as for :func:`load`.
        progress: Progress callback of an engine's compilation.

    Raises:
        IntegrityError: If the bundle is refused, see :func:`load`.
        BackendError: If no variant can run here, see :func:`load`.
        InputError: If ``threads`` is below 1 or too large.
    """
    variants = opened.manifest.variants
    offered = list(dict.fromkeys(v.backend for v in variants))
    stand_ins = stand_in_variants(variants, backend)
    if backend is not None and backend not in offered and not stand_ins:
        raise BackendError(
            f"The bundle {opened.path} runs on {', '.join(offered)}, not on '{backend}'.{near(backend, offered)} "
            "Build it for a target with that backend.",
            code="backend-not-in-bundle",
        )
    most = max(_MAX_THREADS, cpus())
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= most):
        raise InputError(
            f"threads is {threads!r}, expected a whole number from 1 to {most}. "
            f"This machine has {cpus()} CPUs, and more threads than CPUs gain nothing.",
            code="threads-out-of-range",
        )
    matching = [v for v in variants if backend in (None, v.backend)]
    if stand_ins:
        return _open_stand_in(opened, stand_ins[0], threads, progress)
    if opened.manifest.choose_on == "device" and (len(matching) > 1 or matching[0].engine is not None):
        choice = select_variant(opened, progress, variants=matching)
    else:
        reason = "the backend was requested" if backend else "it won the race where the bundle was built"
        choice = Choice(matching[0], reason)
    _LOG.info("%s: %s on %s, %s", opened.path, choice.variant.method, choice.variant.backend, choice.reason)
    _LOG.debug("%s: %s", opened.path, choice.variant)
    if threads is not None and choice.variant.device == "cpu" and threads > cpus():
        _LOG.warning(
            "%s: threads=%d was requested, but this process can run %d at a time (CPUs and quota of its control "
            "groups). Threads that wait for each other then take several times as long.",
            opened.path,
            threads,
            cpus(),
        )
    session = _open_choice(opened, choice, threads, progress)
    try:
        compared = check_golden(session, opened, choice.variant)
        if compared:
            _LOG.info("%s: golden inputs %s", opened.path, compared)
            session.chosen += f"; golden inputs {compared}"
    except BaseException:
        session.close()
        raise
    return session


def _open_stand_in(opened: Bundle, variant: Variant, threads: int | None, progress: Progress) -> Session:
    """Return a session of a device's variant on the stand-in, after its golden-output check passed."""
    names = " and ".join(dict.fromkeys(v.backend for v in opened.manifest.variants))
    reason = (
        f"stand-in for {names}: the graph of {variant.method} on this machine's CPU, its latency is not the device's"
    )
    session = Session(opened, cap_threads(variant, threads), reason, progress)
    try:
        check_golden(session, opened, variant)
    except BaseException:
        session.close()
        raise
    return session


def _open_choice(opened: Bundle, choice: Choice, threads: int | None, progress: Progress) -> Session:
    """Return the session that has just won a race, if it has the requested threads; else a new session."""
    variant = cap_threads(choice.variant, threads)
    if choice.session is not None:
        if choice.session.runs(variant):
            choice.session.chosen = choice.reason
            return choice.session
        choice.session.close()
    check_instructions(variant, opened.path)
    return Session(opened, variant, choice.reason, progress, self_test=True)
