"""Opens a bundle: which of its variants runs here, and whether it may."""

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

_MOST_THREADS = 256  # a backend makes as many as it is told: a hundred thousand take all memory before they fail


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
    """Opens a bundle for prediction, after checking all of it.

    Args:
        bundle: the folder that ``edgekit build`` wrote.
        backend: which of the bundle's backends; by default its best one. A bundle that was built to be raced on the device
            is raced at its first load here, and what won is remembered; engines that it needs are made then, which can take minutes
            (``edgekit compile`` does it beforehand), and kept. ``onnxruntime`` for a bundle of a device's backends runs its graph on this CPU, as
            a stand-in: the answers are the device's but for rounding, the times are not.
        threads: threads of one call, on a GPU calls at the same time; by default as the bundle was tuned, but no more than the CPUs there are.
        trust: whose bundles may be opened, e.g. ``Trust(keys=["maker.pub"])``; None for anybody's. Engines that a bundle brings are loaded only with it.
        max_characters: most characters that a text may have, or each text of a pair, where each run of white space counts as one; by default 64 for each token
            of the longest row that the model reads. A longer text is an InputError.
        truncate: cut a longer text there, at the border of a word or pre-token, and mark its answer as ``truncated``. The token ids, and so the answer, are
            those of the whole text where the part that is left fills the model's longest row and the tokenizer decides word by word; they may differ for a text
            that begins with much that makes no token, for one endless word, and for a model that reads the end of a text (``truncation_side``).
        progress: told how far the making of an engine is.

    Raises:
        IntegrityError: when the bundle is altered, incomplete or of a newer format, or not signed by whom ``trust`` names; or brings an engine
            and no ``trust`` is given.
        BackendError: when the backend is not in the bundle, is not installed, or refuses the graph; an engine made here answers wrongly, or the
            backend does on a machine of another kind than the build's; or the CPU lacks what the bundle requires. Only a bundle that races on
            the device has another variant to take instead.
        InputError: for a number of threads or characters below 1 or beyond reason.
    """
    if trust is not None and not isinstance(trust, Trust):
        raise UsageError(
            f"trust is a {type(trust).__name__}, expected edgekit.Trust(keys=[...]) or None. A key file alone is no Trust.",
            code="trust-type",
        )
    Limit(1 if max_characters is None else max_characters, truncate)  # a wrong number is told before a bundle is read
    opened = open_bundle(Path(bundle), trust)
    try:
        session = load_checked(opened, backend=backend, threads=threads, progress=progress)
    except (BackendError, IntegrityError):
        if not opened.is_replaced():
            raise
        # Another bundle took its place between the check and the load, which then lacked files, or had those of the other.
        session = load_checked(open_bundle(Path(bundle), trust), backend=backend, threads=threads, progress=progress)
    session.limit(max_characters, truncate)
    return session


def load_checked(
    opened: Bundle, *, backend: str | None = None, threads: int | None = None, progress: Progress = silent
) -> Session:
    """Opens a bundle that was checked; all else is as for :func:`load`."""
    variants = opened.manifest.variants
    offered = list(dict.fromkeys(v.backend for v in variants))
    stand_ins = stand_in_variants(variants, backend)
    if backend is not None and backend not in offered and not stand_ins:
        known = ", ".join(offered)
        raise BackendError(
            f"The bundle {opened.path} runs on {known}, not on '{backend}'.{near(backend, offered)} Build it for a target with that backend.",
            code="backend-not-in-bundle",
        )
    most = max(_MOST_THREADS, cpus())
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= most):
        raise InputError(
            f"threads is {threads!r}, expected a whole number from 1 to {most}; more than {cpus()}, the CPUs there are, gains nothing.",
            code="threads-out-of-range",
        )
    asked = [v for v in variants if backend in (None, v.backend)]
    if stand_ins:
        return _open_stand_in(opened, stand_ins[0], threads, progress)
    if opened.manifest.choose_on == "device" and (len(asked) > 1 or asked[0].engine is not None):
        choice = select_variant(opened, progress, variants=asked)
    else:
        choice = Choice(
            asked[0], "the backend was asked for" if backend else "it won the race where the bundle was built"
        )
    _LOG.info("%s: %s on %s, %s", opened.path, choice.variant.method, choice.variant.backend, choice.reason)
    _LOG.debug("%s: %s", opened.path, choice.variant)
    session, variant = _session(opened, choice, threads, progress), choice.variant
    try:
        if compared := check_golden(session, opened, variant):
            _LOG.info("%s: golden inputs %s", opened.path, compared)
            session.chosen += f"; golden inputs {compared}"
    except BaseException:
        session.close()
        raise
    return session


def _open_stand_in(opened: Bundle, variant: Variant, threads: int | None, progress: Progress) -> Session:
    """Return a session of the first variant of a device's bundle on the stand-in, after its golden inputs passed."""
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


def _session(opened: Bundle, choice: Choice, threads: int | None, progress: Progress) -> Session:
    """The open winner of a race that was just run, where it has the threads that are asked for; else a new session."""
    variant = cap_threads(choice.variant, threads)
    if choice.session is not None:
        if choice.session.runs(variant):
            choice.session.chosen = choice.reason
            return choice.session
        choice.session.close()
    check_instructions(variant, opened.path)
    return Session(opened, variant, choice.reason, progress, self_test=True)
