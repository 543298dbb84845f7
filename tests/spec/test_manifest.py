"""Manifests: they are read strictly or refused."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from edgekit.spec.errors import IntegrityError
from edgekit.spec.manifest import (
    CHOOSE_ON,
    FORMAT,
    MAX_TOKENS,
    TIMED_FILES,
    FileEntry,
    HeldOut,
    Manifest,
    Trial,
    Variant,
    check_inside,
    content_digest,
    dumps,
    loads,
)
from edgekit.spec.tensor import Signature, TensorSpec

ENTRY = FileEntry("0" * 64, 3)
IDS = TensorSpec("input_ids", "int64", ("batch", "sequence"), 0)
LOGITS = TensorSpec("logits", "float32", ("batch", 3))
GOOD = Manifest(
    format=FORMAT,
    task="text-classification",
    loop="single",
    max_batch=32,
    signatures=(Signature("forward", (IDS,), (LOGITS,)),),
    variants=(
        Variant("onnxruntime", "static", {"forward": "graphs/model.onnx"}, "cpu", 2, "int8", {"machine": "x86_64"}),
    ),
    files={"graphs/model.onnx": ENTRY, "assets/task.json": ENTRY},
    target="cpu",
    reason="it is fast; ümlaut",
    score_name="accuracy",
    reference_score=0.9,
    trials=(Trial("static", "onnxruntime", "int8", 0.9, 0.0, 0, 1.0, 2.0, 3.0, 4.0, 5.0, "chosen"),),
    provenance={"model": "m"},
)

VARIANTS = (
    *GOOD.variants,
    replace(GOOD.variants[0], shapes=(8, 16, 64), streams=2, batch=4, recipe={"ranges": "mse"}, linear_macs=2**40),
    replace(GOOD.variants[0], backend="openvino", requires={"instructions": "vnni"}),
    replace(GOOD.variants[0], rows="together", max_tokens=0),
)

_numbers = st.floats(allow_nan=False, allow_infinity=False)
_path = st.from_regex(r"[a-zA-Z0-9_\-][a-zA-Z0-9_.\-]{0,5}(/[a-zA-Z0-9_\-][a-zA-Z0-9_.\-]{0,5}){0,3}", fullmatch=True)
_entries = st.builds(FileEntry, st.from_regex("[0-9a-f]{64}", fullmatch=True), st.integers(0))


def changed(**changes):
    return json.dumps({**json.loads(dumps(GOOD)), **changes})


@pytest.mark.slow
@given(
    st.builds(
        Manifest,
        format=st.just(FORMAT),
        task=st.text(),
        loop=st.text(),
        max_batch=st.integers(1, 2**40),
        signatures=st.just(GOOD.signatures),
        variants=st.lists(st.sampled_from(VARIANTS), min_size=1, max_size=3).map(tuple),
        files=st.dictionaries(_path, _entries, max_size=4).map(lambda f: {**f, "graphs/model.onnx": ENTRY}),
        target=st.text(),
        reason=st.text(),
        score_name=st.text(),
        reference_score=_numbers,
        trials=st.lists(
            st.builds(Trial, *[st.text()] * 3, _numbers, _numbers, st.integers(0), *[_numbers] * 5, st.text()),
            max_size=3,
        ).map(tuple),
        held_out=st.none()
        | st.builds(
            HeldOut, st.integers(1), *[_numbers] * 5, *[st.none() | st.integers(0)] * 2, st.none() | _numbers, st.text()
        ),
        sensitivity=st.dictionaries(st.text(), _numbers, max_size=3),
        notes=st.lists(st.text(), max_size=3).map(tuple),
        choose_on=st.sampled_from(CHOOSE_ON),
        provenance=st.dictionaries(st.text(), st.text(), max_size=3),
    )
)
def test_written_and_read_is_the_same(manifest):
    assert loads(dumps(manifest), "m") == manifest


def test_the_text_does_not_depend_on_the_order_of_mappings():
    other = Manifest(**{**vars(GOOD), "files": dict(reversed(GOOD.files.items()))})
    assert dumps(other) == dumps(GOOD)


@pytest.mark.parametrize(
    ("method", "rows"),
    [("dynamic", "alone"), ("static", "together"), ("float32", "together"), ("weight_only", "together")],
)
def test_whether_rows_share_a_call_follows_from_the_method_in_format_1(method, rows):
    data = json.loads(
        changed(
            format=1,
            variants=[
                {
                    "backend": "onnxruntime",
                    "method": method,
                    "graphs": {"forward": "graphs/model.onnx"},
                    "device": "cpu",
                }
            ],
        )
    )
    data["variants"][0] |= {"threads": 2, "executed": "int8"}
    (variant,) = loads(json.dumps(data), "m").variants
    assert (variant.rows, variant.max_tokens) == (rows, MAX_TOKENS)
    data["format"] = 2
    (variant,) = loads(json.dumps(data), "m").variants
    assert variant.rows == "alone", "the default is correct for every graph"


@pytest.mark.parametrize("version", [FORMAT + 1, 99, 10**30])
def test_a_newer_format_is_refused_as_such_with_any_keys(version):
    with refused("bundle-format", f"{version}", f"{FORMAT}"):
        loads(json.dumps({"format": version, "something": "new"}), "m")


@pytest.mark.parametrize("version", [0, -1])
def test_a_format_below_1(version):
    with refused("bundle-format", f"{version}", "1"):
        loads(changed(format=version), "m")


@pytest.mark.parametrize("version", [True, 1.0, "1", None, [1]])
def test_a_format_that_is_not_an_int(version):
    with refused("value-type"):
        loads(changed(format=version), "m")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"x"', "{'a': 1}", "\0", "{}", "\ufeff{}", dumps(GOOD)[:-10], dumps(GOOD) + "x"],
)
def test_not_a_manifest(text):
    with pytest.raises(IntegrityError):
        loads(text, "m")


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "9" * 5000, "true", '"0.9"', "null"]
)
def test_a_score_that_is_not_finite(number):
    text = changed(reference_score=0.123456789)
    assert "0.123456789" in text
    with pytest.raises(IntegrityError):
        loads(text.replace("0.123456789", number), "m")


@pytest.mark.parametrize("bomb", ["[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000])
def test_a_nesting_bomb_is_refused_quickly(bomb):
    start = time.perf_counter()
    with refused("manifest-invalid"):
        loads(bomb, "m")
    with refused("manifest-invalid"):
        loads('{"format": 1, "provenance": ' + bomb + "}", "m")
    assert time.perf_counter() - start < 5


LATER = {  # bundles of earlier releases lack these keys
    *("provenance", "held_out", "sensitivity", "notes", "choose_on", "verified", "unverified", "reference_check"),
    *("name", "version", "expires", "built", "machine", "higher_is_better", "input_forms"),
}


@pytest.mark.parametrize("key", list(vars(GOOD)))
def test_every_key_is_needed_and_typed(key):
    data = json.loads(dumps(GOOD))
    if key not in LATER:
        with refused("key-missing", f"{key}"):
            loads(json.dumps({k: v for k, v in data.items() if k != key}), "m")
    wrong_type = 1 if isinstance(data[key], str) else "object"
    with refused("value-type", key) as caught:
        loads(changed(**{key: wrong_type}), "m")
    assert type(caught.value) is IntegrityError


def test_an_unknown_key_suggests_the_nearest():
    with refused("key-unknown", "variant", "variants"):
        loads(changed(variant=[]), "m")


def test_no_variant():
    with refused("manifest-invalid"):
        loads(changed(variants=[]), "m")


def test_a_batch_of_no_rows():
    with refused("manifest-invalid", "max_batch"):
        loads(changed(max_batch=0), "m")


WRONG_VARIANTS = [
    ({"streams": 0}, ("manifest-invalid", "streams 0")),
    ({"streams": -1}, ("manifest-invalid", "streams -1")),
    ({"batch": -1}, ("manifest-invalid", "batch -1")),
    ({"shapes": [0]}, ("manifest-invalid", "shapes [0]")),
    ({"shapes": [-8, 16]}, ("manifest-invalid", "shapes [-8, 16]")),
    ({"shapes": [16, 8]}, ("manifest-invalid", "shapes [16, 8]")),
    ({"shapes": [8, 8]}, ("manifest-invalid", "shapes [8, 8]")),
    ({"threads": 0}, ("manifest-invalid", "0 threads")),
    ({"shapes": 8}, ("value-type", "shapes", "int", "list")),
    ({"shapes": ["8"]}, ("value-type", "shapes[0]")),
    ({"shapes": [8.5]}, ("value-type", "shapes[0]")),
    ({"streams": True}, ("value-type", "streams", "True")),
    ({"batch": 1.0}, ("value-type", "batch", "1.0")),
    ({"batch": None}, ("value-type", "batch", "None")),
    ({"linear_macs": "many"}, ("value-type", "linear_macs")),
    ({"recipe": {"ranges": 3}}, ("value-type", "ranges")),
    ({"stream": 2}, ("key-unknown", "'streams'")),
    ({"rows": "apart"}, ("manifest-invalid", "rows 'apart'")),
    ({"max_tokens": -1}, ("manifest-invalid", "max_tokens -1")),
]


@pytest.mark.parametrize(("change", "error"), WRONG_VARIANTS, ids=str)
def test_an_invalid_variant(change, error):
    variant = json.loads(dumps(GOOD))["variants"][0]
    with refused(error) as caught:
        loads(changed(variants=[variant, {**variant, **change}]), "m")
    assert type(caught.value) is IntegrityError


@pytest.mark.parametrize(("shapes", "streams", "batch"), [((), 1, 0), ((1,), 2, 1), ((8, 16, 64), 3, 64)])
def test_how_a_variant_is_run(shapes, streams, batch):
    variant = json.loads(dumps(GOOD))["variants"][0]
    changes = {"shapes": list(shapes), "streams": streams, "batch": batch}
    (loaded,) = loads(changed(variants=[{**variant, **changes}]), "m").variants
    assert (loaded.shapes, loaded.streams, loaded.batch) == (shapes, streams, batch)


def test_a_bundle_of_an_earlier_release_has_fewer_keys():
    """The defaults are the earlier behaviour: any shape, one stream, the bundle's batch, no race on the device."""
    data = json.loads(dumps(GOOD))
    for name in ("shapes", "streams", "batch", "recipe", "linear_macs"):
        del data["variants"][0][name]
    for name in (
        "rows_per_s",
        "ratio",
        "ratio_high",
        "losses",
        "gains",
        "drop_low",
        "drop_high",
        "p_value",
        "shapes",
        "threads",
        "streams",
        "batch",
    ):
        del data["trials"][0][name]
    for name in ("held_out", "sensitivity", "notes", "choose_on", "verified", "unverified", "reference_check"):
        del data[name]
    manifest = loads(json.dumps(data), "m")
    (variant,) = manifest.variants
    assert (variant.shapes, variant.streams, variant.batch, variant.recipe, variant.linear_macs) == ((), 1, 0, {}, 0)
    assert (manifest.held_out, manifest.sensitivity, manifest.notes, manifest.choose_on) == (None, {}, (), "host")
    assert manifest.trials == GOOD.trials


@pytest.mark.parametrize("where", ["here", "Device", "", "devise"])
def test_an_unknown_choose_on(where):
    with refused("manifest-invalid", f"{where}", "choose_on"):
        loads(changed(choose_on=where), "m")


HELD_OUT = HeldOut(150, 0.9, 0.92, 0.02, 0.0, 0.04, 5, 2, 0.45, "0" * 64)


def test_the_result_on_a_test_set():
    manifest = replace(
        GOOD, held_out=HELD_OUT, sensitivity={"a.b": 0.5}, notes=("one.", "zwei: ü."), choose_on="device"
    )
    assert loads(dumps(manifest), "m") == manifest
    bare = replace(GOOD, held_out=replace(HELD_OUT, losses=None, gains=None, p_value=None))
    assert loads(dumps(bare), "m") == bare, "a score that is not a mean of correct rows"
    for change in ({"rows": 1.5}, {"score": None}, {"score": "good"}, {"losses": 0.5}, {"digest": None}, {"lost": 1}):
        with pytest.raises(IntegrityError, match="held_out"):  # the code depends on the change
            loads(changed(held_out={**vars(HELD_OUT), **change}), "m")


def test_the_content_digest_covers_all_files_without_times():
    other = FileEntry("1" * 64, 3)
    base = content_digest(GOOD)
    reordered = dict(reversed(GOOD.files.items()))
    assert content_digest(replace(GOOD, reason="another", provenance={}, files=reordered)) == base
    for name in TIMED_FILES:
        assert content_digest(replace(GOOD, files={**GOOD.files, name: ENTRY})) == base
        assert content_digest(replace(GOOD, files={**GOOD.files, name: other})) == base
        assert content_digest(replace(GOOD, files={**GOOD.files, f"assets/{name}": ENTRY})) != base, (
            "only the path that a build writes is excluded"
        )
    for name in GOOD.files:
        assert content_digest(replace(GOOD, files={**GOOD.files, name: other})) != base
        others = {n: f for n, f in GOOD.files.items() if n != name}
        assert content_digest(replace(GOOD, files=others)) != base
        assert content_digest(replace(GOOD, files={**others, "z": GOOD.files[name]})) != base


def test_a_graph_that_is_not_listed():
    variant = json.loads(dumps(GOOD))["variants"][0]
    with refused("manifest-invalid", "graphs/other.onnx"):
        loads(changed(variants=[{**variant, "graphs": {"forward": "graphs/other.onnx"}}]), "m")


def test_a_variant_without_a_graph_for_a_signature():
    variant = json.loads(dumps(GOOD))["variants"][0]
    with refused("manifest-invalid"):
        loads(changed(variants=[{**variant, "graphs": {}}]), "m")


BAD_PATHS = [
    *("a/b/../../..", "../x", "/x", "a\\b", "C:x", "C:/x", "a//b", ".", "", ".."),
    *("a/..", "a/../b", "./a", "a/.", "a/", "//x", "\\\\host\\x", "a\0b", "file:x", "a/../../b"),
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_odd_paths(path):
    with refused("manifest-invalid"):
        check_inside(path, "m")
    with refused("manifest-invalid"):
        loads(changed(files={**{k: vars(v) for k, v in GOOD.files.items()}, path: vars(ENTRY)}), "m")


@pytest.mark.parametrize(
    "path", ["a", "a/b", "graphs/weights/" + "0" * 64, "a.b", "..a", "a..", "a b", "ü/日本", "...", "-x", "~"]
)
def test_plain_paths(path):
    check_inside(path, "m")


def test_a_duplicate_path():
    """JSON allows duplicates, so one reader could check the first and another one open the second."""
    text = changed()
    entry = json.dumps(vars(ENTRY))
    assert f'"assets/task.json": {entry}' in text
    twice = text.replace(f'"assets/task.json": {entry}', f'"assets/task.json": {entry}, "assets/task.json": {entry}')
    with refused("manifest-invalid"):
        loads(twice, "m")
