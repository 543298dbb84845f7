"""What differs between two bundles: their manifests, field by field, and how each ran."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgekit.spec.manifest import TIMED_FILES, Manifest
from edgekit.spec.parsing import plain, to_json
from edgekit.spec.subject import Subject

__all__ = ["SAME", "describe_differences", "differences", "equal", "settings"]

SAME = "both sides are the same bundle, files and settings"

# Fields that say how a bundle came about or what it is called. All others decide what it answers and how fast, those of later versions too.
_DESCRIBES = frozenset(
    {
        *(
            "target",
            "reason",
            "score_name",
            "higher_is_better",
            "reference_score",
            "trials",
            "held_out",
            "sensitivity",
            "notes",
            "verified",
            "unverified",
        ),
        *("provenance", "name", "version", "expires", "built", "reference_check", "machine"),
    }
)
_MEASURED = ("lists",)  # of a variant: what its build saw, which varies from build to build
_RAN = ("backend", "method", "executed", "threads")
_MOST = 8  # differences that are named
_LONGEST = 60  # characters of a value


def settings(manifest: Manifest) -> dict[str, str]:
    """What a manifest says of how its bundle runs, as text by name.

    Args:
        manifest: of the bundle.

    Returns:
        ``variant 1 threads``: ``2``, ``file graphs/model.onnx``: its digest, ``max_batch``: ``32`` ...; values that are no strings as JSON.
    """
    data = plain(manifest)
    variants, files = data.pop("variants"), data.pop("files")
    named = {name: _text(value) for name, value in data.items() if name not in _DESCRIBES}
    for place, variant in enumerate(variants, 1):
        named |= {f"variant {place} {name}": _text(value) for name, value in variant.items() if name not in _MEASURED}
    return named | {f"file {path}": str(entry["sha256"]) for path, entry in files.items() if path not in TIMED_FILES}


def differences(before: Subject, after: Subject) -> list[str]:
    """What differs between two bundles, a phrase each, e.g. ``variant 1 threads: 2, then 1``; empty where nothing does.

    Where one side's settings are not known (a report of EdgeKit 0.1), their content digests stand for the files.
    """
    if before.settings and after.settings:
        found = list(_settings(before.settings, after.settings))
    else:
        found = [] if before.digest == after.digest else ["the content of their files"]
    ran = [name for name in _RAN if not any(phrase.startswith(f"variant 1 {name}:") for phrase in found)]
    return found + [
        f"ran with {name} {was}, then {now}"
        for name in ran
        if (was := getattr(before, name)) != (now := getattr(after, name))
    ]


def equal(before: Subject, after: Subject) -> bool:
    """Whether both are known to be one bundle, files and settings, that ran in one way."""
    return bool(before.settings and after.settings) and not differences(before, after)


def describe_differences(before: Subject, after: Subject) -> str:
    """A sentence that says what differs between two bundles."""
    found = differences(before, after)
    if not found:
        same = (
            SAME.capitalize()
            if equal(before, after)
            else "Both sides have the same files (the baseline does not tell its settings)"
        )
        return f"{same}: what differs in their times is the machine."
    files = any(phrase.startswith(("file ", "files ", "the content ")) for phrase in found)
    more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return f"{'What differs' if files else 'Their files are the same, their settings are not'}: {'; '.join(found[:_MOST])}{more}."


def _settings(was: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Settings first, then files: of those the names alone say something."""
    order = {name: None for name in (*was, *now)}
    changed = [name for name in order if was.get(name) != now.get(name)]
    for name in (n for n in changed if not n.startswith("file ")):
        yield f"{name}: {_cut(was.get(name))}, then {_cut(now.get(name))}"
    for name in (n for n in changed if n.startswith("file ")):
        yield name + (
            " (content)" if name in was and name in now else " (only before)" if name in was else " (only now)"
        )


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_json(value, sort_keys=True, ensure_ascii=False)


def _cut(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
