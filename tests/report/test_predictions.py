"""Predictions: ids by hand, one key for two processes, every float32 through JSON, and files that a teacher may have left."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pickle
import random
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import small
from heads import rows
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from edgekit.modalities.text import UNBOUND
from edgekit.report import predictions
from edgekit.report.predictions import id_key, name_outputs, pack, read_outputs, unpack
from edgekit.spec.errors import SamplesError, UsageError
from edgekit.spec.parsing import parse, plain
from edgekit.spec.subject import Numbers, Predictions
from edgekit.spec.tensor import TensorSpec

KEY = b"sixteen letters!"
LOGITS_OF_THREE = (TensorSpec("logits", "float32", ("batch", 3)),)


def row_ids(texts, key):
    return predictions.row_ids(map(UNBOUND.content, texts), key)


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGEKIT_ID_KEY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "edgekit" / "id.key"


# ---- ids


def test_ids_by_hand():
    assert row_ids(["Grüße"], KEY) == (hmac.new(KEY, "Grüße".encode(), hashlib.sha256).hexdigest()[:16],)
    pair = b"\xff" + (2).to_bytes(8, "big") + "é".encode() + b"b"
    assert row_ids([("é", "b")], KEY) == (hmac.new(KEY, pair, hashlib.sha256).hexdigest()[:16],)
    # RFC 4231, test case 2
    assert row_ids(["what do ya want for nothing?"], b"Jefe") == ("5bdcc146bf60754e",)


def test_ids_tell_texts_and_keys_apart():
    texts = ["ab", ("ab", ""), ("a", "b"), ("", "ab"), "a\x00b", "ab ", "", ("", ""), "\x00" * 7 + "\x01ab"]
    assert len(set(row_ids(texts, KEY))) == len(texts)
    assert row_ids(["ab", "ab"], KEY)[0] == row_ids(["ab", "ab"], KEY)[1]
    assert not set(row_ids(texts, KEY)) & set(row_ids(texts, KEY + b"!"))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=3, max_size=3, unique=True))
def test_a_pair_is_cut_in_one_place_only(parts):
    a, b, c = parts
    assert len(set(row_ids([(a + b, c), (a, b + c)], KEY))) == (1 if not b else 2)


# ---- the key


def test_the_key_of_the_environment(state, monkeypatch):
    monkeypatch.setenv("EDGEKIT_ID_KEY", "sixteen letters!")
    assert id_key() == KEY
    monkeypatch.setenv("EDGEKIT_ID_KEY", "secret")
    with refused("id-key-short", "EDGEKIT_ID_KEY", "6", "16") as caught:
        id_key()
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("EDGEKIT_ID_KEY", "")
    with refused("id-key-short", "0"):
        id_key()
    assert not state.exists()


def test_the_kept_key(state):
    key = id_key()
    assert len(key) == 32
    assert id_key() == key == state.read_bytes()
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert [f.name for f in state.parent.iterdir()] == ["id.key"], "nothing beside it is left"
    state.unlink()
    assert id_key() != key


def test_where_it_is_kept(state, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative/folder"):
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        assert id_key() == (tmp_path / "home" / ".local" / "state" / "edgekit" / "id.key").read_bytes()


def test_a_file_that_holds_no_key(state):
    id_key()
    state.write_bytes(b"short")
    with refused("id-key-size", "5", "32"):
        id_key()


@pytest.mark.slow
def test_processes_at_once_agree_on_one_key(state):
    code = "import sys; from edgekit.report.predictions import id_key; sys.stdin.read(1); print(id_key().hex())"
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=small.ROOT, text=True
        )
        for _ in range(6)
    ]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    found = {child.communicate()[0].strip() for child in children}
    assert found == {state.read_bytes().hex()}


def test_the_loser_of_the_race_takes_the_winners_key(state, monkeypatch):
    """Another process makes the file between the look and the link."""
    link = os.link

    def late(source, target):
        state.write_bytes(b"w" * 32)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert id_key() == b"w" * 32
    assert [f.name for f in state.parent.iterdir()] == ["id.key"]


@pytest.mark.parametrize("blocked", ["a file in the way", "no links there"])
def test_a_folder_that_cannot_be_written(state, monkeypatch, blocked):
    """As root no mode keeps anybody out, so a file stands where the folder should be."""
    if blocked == "no links there":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    else:
        state.parents[1].write_text("")
    key = id_key()
    assert len(key) == 32
    assert id_key() == key, "the same for the whole run"
    assert not state.exists()
    other = "from edgekit.report.predictions import id_key; print(id_key().hex())"
    if blocked == "a file in the way":
        assert subprocess.check_output([sys.executable, "-c", other], cwd=small.ROOT, text=True).strip() != key.hex()


# ---- in a report


ODD = [0.1, 1 / 3, -1e-45, 3.4028235e38, 1.1754942e-38, -0.0, 7.0, 16777217.0, 0.30000001]


def through_json(packed):
    return parse(Predictions, json.loads(json.dumps(plain(packed))), "predictions")


def test_through_json_and_back():
    logits = np.array(ODD, np.float32).reshape(3, 3)
    packed = pack(rows(logits), ["a", "b", "c"])
    assert (packed.outputs["logits"].dtype, packed.outputs["logits"].shape) == ("float32", (3, 3))
    found = unpack(through_json(packed))
    assert [list(row) for row in found] == [["logits"]] * 3
    assert np.stack([row["logits"] for row in found]).dtype == np.float32
    assert np.stack([row["logits"] for row in found]).tobytes() == logits.tobytes()


def test_ragged_rows_of_several_outputs_through_json_and_back():
    draw = np.random.default_rng(0)
    outputs = [
        {
            "scores": draw.normal(size=(n, 2)).astype(np.float32),
            "ids": np.arange(n) * 2**40,
            "kept": np.arange(n) % 2 == 0,
        }
        for n in (3, 1, 4)
    ]
    found = unpack(through_json(pack(outputs, ["a", "b", "c"])))
    for row, expected in zip(found, outputs, strict=True):
        assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in row.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in expected.items()
        }


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
def test_every_float32_survives(row):
    logits = np.array([row], np.float32)
    assert unpack(through_json(pack(rows(logits), ["a"])))[0]["logits"].tobytes() == logits.tobytes()


def test_what_cannot_be_packed():
    with refused("rows-differ", "2", "3"):
        pack(rows(np.zeros((2, 3))), ["a", "b", "c"])
    with refused("rows-differ", "0"):
        pack([], [])
    with refused("outputs-not-finite", "1", "2"):
        pack(rows(np.array([[0, np.nan, np.inf], [0, 0, 0]])), ["a", "b"])


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"logits": Numbers("float32", (1, 2), (1.0, 2.0))}, "predictions of 1 rows for 2 ids"),
        ({}, "predictions of 0 rows for 2 ids"),
        ({"logits": Numbers("float32", (2, 2), (1.0, 2.0, 3.0))}, r"shape \[2, 2\] with 3 values"),
        ({"logits": Numbers("float32", (2, -2), ())}, r"shape \[2, -2\] with 0 values"),
        ({"logits": Numbers("object", (2, 1), (1.0, 2.0))}, "type object"),
        ({"logits": Numbers("float32", (2, 1), (1.0, 1e39))}, "not float32"),
        ({"logits": Numbers("float32", (2, 1), (1.0, float("nan")))}, "not float32"),
        ({"ids": Numbers("int64", (2, 1), (1.0, 0.5))}, "not int64"),
        ({"ids": Numbers("uint8", (2, 1), (1.0, -1.0))}, "not uint8"),
        ({"kept": Numbers("bool", (2, 1), (1.0, 2.0))}, "not bool"),
        (
            {"a": Numbers("float32", (2, 1), (1.0, 2.0)), "b": Numbers("float32", (3, 1), (1.0, 2.0, 3.0))},
            "parts do not fit",
        ),
        (
            {"a": Numbers("float32", (3,), (1.0, 2.0, 3.0)), "a.shapes": Numbers("int64", (2, 1), (1.0, 1.0))},
            "parts do not fit",
        ),
        (
            {"a": Numbers("float32", (3,), (1.0, 2.0, 3.0)), "a.shapes": Numbers("float32", (2, 1), (1.0, 2.0))},
            "parts do not fit",
        ),
        ({"a": Numbers("float32", (), (1.0,))}, "parts do not fit"),
    ],
)
def test_damaged_predictions(outputs, said):
    with pytest.raises(ValueError, match=said):
        unpack(Predictions(("a", "b"), outputs))


# ---- a teacher's file


LOGITS = np.array([[0.1, 0.2, 0.7], [-1.0, 2.5, 1e-8]], np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", ">f4"])
def test_files_of_numpy(tmp_path, dtype):
    array = LOGITS.astype(dtype)
    np.save(tmp_path / "t.npy", array)
    np.savez(tmp_path / "t.npz", logits=array, other=np.zeros(5))
    np.savez_compressed(tmp_path / "c.npz", logits=np.asfortranarray(array))
    for name in ("t.npy", "t.npz", "c.npz"):
        found = read_outputs(tmp_path / name, 2, LOGITS_OF_THREE)
        assert all(
            row["logits"].dtype == np.float32 and row["logits"].flags.c_contiguous and row["logits"].flags.writeable
            for row in found
        )
        assert [row["logits"].tolist() for row in found] == array.astype(np.float32).tolist()


def test_files_of_lines(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(
        "\ufeff"
        + "\r\n\n".join(json.dumps({"logits": row, "text": "x\u2028y"}, ensure_ascii=False) for row in LOGITS.tolist())
        + "\n",
        "utf-8",
    )
    assert np.stack([row["logits"] for row in read_outputs(file, 2, LOGITS_OF_THREE)]).tobytes() == LOGITS.tobytes()
    file.write_text('{"logits": [1, 2, 3]}\n{"logits": [1.5, -2, 0]}')
    assert [row["logits"].tolist() for row in read_outputs(str(file), 2, LOGITS_OF_THREE)] == [[1, 2, 3], [1.5, -2, 0]]


def test_several_outputs_and_ragged_rows(tmp_path):
    from edgekit.spec.rows import pack as packed

    specs = (TensorSpec("tags", "float32", ("batch", "sequence", 2)), TensorSpec("ids", "int64", ("batch", "sequence")))
    outputs = [{"tags": np.ones((n, 2), np.float32) * n, "ids": np.arange(n)} for n in (2, 5, 1)]
    np.savez(tmp_path / "t.npz", **packed(outputs))
    small.write_jsonl(tmp_path / "t.jsonl", [{name: a.tolist() for name, a in row.items()} for row in outputs])
    for name in ("t.npz", "t.jsonl"):
        found = read_outputs(tmp_path / name, 3, specs)
        for row, expected in zip(found, outputs, strict=True):
            assert {n: (a.dtype, a.tolist()) for n, a in row.items()} == {
                n: (a.dtype, a.tolist()) for n, a in expected.items()
            }
    np.save(tmp_path / "t.npy", np.zeros((3, 2)))
    with refused("predictions-unreadable"):
        read_outputs(tmp_path / "t.npy", 3, specs)
    small.write_jsonl(tmp_path / "t.jsonl", [{"tags": [[1.0, 2.0]], "ids": [0.5]}] * 3)
    with refused("predictions-dtype"):
        read_outputs(tmp_path / "t.jsonl", 3, specs)
    small.write_jsonl(
        tmp_path / "t.jsonl", [{"tags": [[1.0, 2.0]], "ids": [0]}] * 2 + [{"tags": [[1.0, 2.0, 3.0]], "ids": [0]}]
    )
    with refused("predictions-shape", "1", "3", "row 3", "sequence", "2"):
        read_outputs(tmp_path / "t.jsonl", 3, specs)


def test_a_function_gives_rows_or_one_array():
    for form in (LOGITS, LOGITS.tolist(), rows(LOGITS), [{"logits": row, "more": row} for row in LOGITS.tolist()]):
        found = name_outputs(form, 2, LOGITS_OF_THREE, "The teacher's outputs")
        assert np.stack([row["logits"] for row in found]).tobytes() == LOGITS.tobytes()
    with refused("predictions-shape", "1", "3", "2"):
        name_outputs(LOGITS[:1], 2, LOGITS_OF_THREE, "The teacher's outputs")
    with refused("predictions-output", "logits"):
        name_outputs([{"logit": [1, 2, 3]}] * 2, 2, LOGITS_OF_THREE, "The teacher's outputs")
    with refused("predictions-output"):
        name_outputs(
            LOGITS,
            2,
            (TensorSpec("a", "float32", ("batch", 3)), TensorSpec("b", "float32", ("batch", 3))),
            "The teacher's outputs",
        )


def assert_refused(file, said, error=SamplesError):
    with pytest.raises(error, match=said) as caught:
        read_outputs(file, 2, LOGITS_OF_THREE)
    assert caught.value.exit_code == 2
    assert "secret" not in str(caught.value).replace(str(file), "")


def test_paths(tmp_path):
    assert_refused(tmp_path / "no.npy", "does not exist", UsageError)
    (tmp_path / "d.npz").mkdir()
    assert_refused(tmp_path / "d.npz", "is a folder", UsageError)
    (tmp_path / "t.csv").write_text("1,2,3")
    assert_refused(tmp_path / "t.csv", r"end in '.csv', expected one of: .npy, .npz, .jsonl", UsageError)


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.jsonl"])
@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 3)), r"shape \[3, 3\], expected \[2, 3\]"),
        (np.zeros((2, 2)), r"shape \[2, 2\], expected"),
        (np.zeros((3, 2)), r"shape \[3, 2\], expected"),
        (
            np.array([[0, 0, 0], [0, np.nan, 0]]),
            "NaN, infinity or a number beyond float32 in 1 of 2 rows, first in row 2",
        ),
        (np.array([[0, 0, np.inf], [0, np.nan, 0]]), "in 2 of 2 rows, first in row 1"),
        (np.array([[0, 0, 1e39], [0, 0, 0]]), "beyond float32 in 1 of 2 rows"),
    ],
)
def test_wrong_numbers(tmp_path, name, array, said):
    file = tmp_path / name
    if name == "t.npy":
        np.save(file, array)
    elif name == "t.npz":
        np.savez(file, logits=array)
    else:
        small.write_jsonl(file, [{"logits": row} for row in array.tolist()])
    assert_refused(file, said)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("secret-was-run",)


def test_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([[Evil(), 0, 0], [0, 0, 0]], object)
    np.save("o.npy", objects)
    np.savez("o.npz", logits=objects)
    for name in ("p.npy", "p.npz"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    for name in ("o.npy", "o.npz", "p.npy", "p.npz"):
        assert_refused(tmp_path / name, "pickled objects, which are code")
    assert not (tmp_path / "secret-was-run").exists()


def test_broken_files(tmp_path):
    np.save(tmp_path / "t.npy", LOGITS)
    np.savez(tmp_path / "t.npz", logits=LOGITS)
    for name in ("t.npy", "t.npz"):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:length])
            assert_refused(tmp_path / name, "cannot be read as an array")
    (tmp_path / "z.npy").write_bytes(whole)
    assert read_outputs(tmp_path / "z.npy", 2, LOGITS_OF_THREE)[0].keys() == {"logits"}, "what is in it counts"
    np.savez(tmp_path / "n.npz", logit=LOGITS)
    assert_refused(tmp_path / "n.npz", "no array 'logits', only: logit")
    np.save(tmp_path / "s.npy", np.array([["secret", "b", "c"]] * 2))
    assert_refused(tmp_path / "s.npy", "expected numbers")
    np.save(tmp_path / "b.npy", LOGITS > 0)
    assert_refused(tmp_path / "b.npy", "of the type bool, expected numbers")


def test_damage_brings_a_typed_error_or_other_numbers(tmp_path):
    """Bytes are changed at random: numpy, zipfile, zlib and tokenize have errors of their own for that."""
    choose = random.Random(0)
    np.save(tmp_path / "t.npy", LOGITS)
    np.savez_compressed(tmp_path / "t.npz", logits=LOGITS)
    for name in ("t.npy", "t.npz"):
        whole, refusals = (tmp_path / name).read_bytes(), 0
        for _ in range(400):
            damaged = bytearray(whole)
            damaged[choose.randrange(len(whole))] = choose.randrange(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                assert len(read_outputs(tmp_path / name, 2, LOGITS_OF_THREE)) == 2
            except SamplesError:
                refusals += 1
        assert refusals > 100


def test_a_header_that_promises_more_than_there_is(tmp_path):
    np.save(tmp_path / "t.npy", LOGITS)
    data = (
        (tmp_path / "t.npy").read_bytes().replace(b"(2, 3)", b"(2000000000, 3000)").replace(b" " * 11 + b"\n", b"\n", 1)
    )
    (tmp_path / "t.npy").write_bytes(data)
    assert_refused(tmp_path / "t.npy", "cannot be read as an array")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("logits.npy", data)
    assert_refused(tmp_path / "t.npz", "cannot be read as an array")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{secret", "line 2 is not valid JSON"),
        ('["secret"]', "line 2 is not an object with a list of numbers"),
        ('{"logit": [1, 2, 3]}', "line 2 is not an object with a list of numbers"),
        ('{"logits": "secret"}', "line 2 is not an object with a list of numbers"),
        ('{"logits": [1, 2, true]}', "line 2 is not an object with a list of numbers"),
        ('{"logits": [1, 2, "secret"]}', "line 2 is not an object with a list of numbers"),
        ('{"logits": [1, 2]}', r"shape \[2\] in row 2, expected \[3\]"),
        ('{"logits": [1, 2, NaN]}', "first in row 2"),
        ('{"logits": [1, 2, 1' + "0" * 400 + "]}", "cannot be read"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ("", r"shape \[1, 3\], expected \[2, 3\]"),
    ],
)
def test_malformed_lines(tmp_path, line, said):
    file = tmp_path / "t.jsonl"
    file.write_text('{"logits": [1, 2, 3]}\n' + line + "\n")
    assert_refused(file, said)


def test_lines_that_are_not_utf8(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'{"logits": [1, 2, 3], "text": "secret \xff"}\n')
    assert_refused(tmp_path / "t.jsonl", "utf-8")
    (tmp_path / "t.jsonl").write_bytes(b"")
    assert_refused(tmp_path / "t.jsonl", r"shape \[0, ...\], expected \[2, 3\]")


def test_the_file_types_are_those_that_are_read(tmp_path):
    for suffix in predictions.FILE_TYPES:
        assert_refused(tmp_path / f"no{suffix}", "does not exist", UsageError)
