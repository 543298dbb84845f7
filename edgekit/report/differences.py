"""Differences between two bundles: the fields of their manifests, and how each of them ran."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.spec.manifest import TIMED_FILES, Manifest
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.subject import Subject

__all__ = ["SAME", "describe_differences", "differences", "equal", "settings"]

SAME = "both sides are the same bundle, files and settings"

# Fields that tell how a bundle was built or what it is called. All other fields, including those of later versions,
# affect its answers or its latency.
# fmt: off
_DESCRIPTIVE = frozenset({
    "target", "reason", "score_name", "higher_is_better", "reference_score", "trials", "held_out", "sensitivity",
    "notes", "verified", "unverified", "provenance", "name", "version", "expires", "built", "reference_check",
    "machine",
})
# fmt: on
_MEASURED = ("lists",)  # fields of a variant that the build measures, so that they vary between builds
_RUN_FIELDS = ("backend", "method", "executed", "threads")
_MAX_PHRASES = 8
_MAX_CHARACTERS = 60


def settings(manifest: Manifest) -> dict[str, str]:
    """Return everything in a manifest that affects how its bundle runs, as text by name.

    Args:
        manifest: Manifest of the bundle.

    Returns:
        Text by name, e.g. ``variant 1 threads``: ``2``, ``max_batch``: ``32``, or the digest of ``file
        graphs/model.onnx``. Values that are not strings are JSON.
    """
    data = plain(manifest)
    variants = data.pop("variants")
    files = data.pop("files")
    result = {name: _text(value) for name, value in data.items() if name not in _DESCRIPTIVE}
    for number, variant in enumerate(variants, 1):
        for name, value in variant.items():
            if name not in _MEASURED:
                result[f"variant {number} {name}"] = _text(value)
    for path, entry in files.items():
        if path not in TIMED_FILES:
            result[f"file {path}"] = str(entry["sha256"])
    return result


def differences(before: Subject, after: Subject) -> list[str]:
    """Return the differences between two bundles, one phrase each, e.g. ``variant 1 threads: 2, then 1``.

    If the settings of one side are not known (a report of EdgeKit 0.1), the content digests are compared instead.
    """
    phrases: list[str] = []
    if before.settings and after.settings:
        phrases = _compare_settings(before.settings, after.settings)
    elif before.digest != after.digest:
        phrases = ["the content of their files"]
    result = list(phrases)
    for name in _RUN_FIELDS:
        is_named = any(phrase.startswith(f"variant 1 {name}:") for phrase in phrases)
        value_before = getattr(before, name)
        value_after = getattr(after, name)
        if not is_named and value_before != value_after:
            result.append(f"ran with {name} {value_before}, then {value_after}")
    return result


def equal(before: Subject, after: Subject) -> bool:
    """Return whether both sides are known to be the same bundle, files and settings, and ran in the same way."""
    return bool(before.settings and after.settings) and not differences(before, after)


def describe_differences(before: Subject, after: Subject) -> str:
    """Return a sentence with the differences between two bundles."""
    phrases = differences(before, after)
    if not phrases:
        subject = "Both sides have the same files (the baseline does not record its settings)"
        if equal(before, after):
            subject = SAME.capitalize()
        return f"{subject}: any difference in latency comes from the machine."
    subject = "The files are the same, the settings differ"
    if any(phrase.startswith(("file ", "files ", "the content ")) for phrase in phrases):
        subject = "The bundles differ"
    more = f"; and {len(phrases) - _MAX_PHRASES} more" if len(phrases) > _MAX_PHRASES else ""
    return f"{subject}: {'; '.join(phrases[:_MAX_PHRASES])}{more}."


def _compare_settings(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return a phrase per difference: settings with both values, then the names of files."""
    names = dict.fromkeys((*before, *after))
    changed = [name for name in names if before.get(name) != after.get(name)]
    settings_phrases = []
    file_phrases = []
    for name in changed:
        if not name.startswith("file "):
            settings_phrases.append(f"{name}: {_shorten(before.get(name))}, then {_shorten(after.get(name))}")
        elif name not in after:
            file_phrases.append(f"{name} (only before)")
        elif name not in before:
            file_phrases.append(f"{name} (only now)")
        else:
            file_phrases.append(f"{name} (content)")
    return settings_phrases + file_phrases


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_json(value, sort_keys=True, ensure_ascii=False)


def _shorten(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."
