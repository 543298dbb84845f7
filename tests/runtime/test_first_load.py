"""A bundle on another machine than the one that built it: golden inputs are compared once, by every variant, and what computes otherwise is refused."""

from __future__ import annotations

import json
import platform
from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit.backends import openvino as openvino_backend
from edgekit.bundle.trust import open_bundle
from edgekit.machine.cpu import cpu_instructions
from edgekit.runtime import choice, golden
from edgekit.runtime.verify import verify

ELSEWHERE = {"architecture": "riscv64", "instructions": "v"}


@pytest.fixture(autouse=True)
def races(tmp_path, monkeypatch):
    """The folder of what a machine remembers that has loaded nothing yet. Races are short ones."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "_ROUNDS", 2)
    return tmp_path / "cache" / "races"


@pytest.fixture
def compared(monkeypatch):
    """Counts the comparisons."""
    real, seen = golden.check, []
    monkeypatch.setattr(golden, "check", lambda session: seen.append(session.info.backend) or real(session))
    return seen


@pytest.fixture
def moved(float32_ort, tmp_path):
    """The bundle as another kind of machine would have built it; with what is changed of the manifest, or of its first variant."""

    def call(variant=None, **changes):
        bundle = small.copy(float32_ort, tmp_path / f"moved-{len(list(tmp_path.iterdir()))}")
        (first,) = json.loads((bundle / "manifest.json").read_text())["variants"]
        small.sign(bundle, **{"machine": ELSEWHERE, "variants": [{**first, **(variant or {})}], **changes})
        return bundle

    return call


def with_goldens(bundle, function):
    """What each variant is to have answered, changed: ``function(index, outputs)``. The float32 answers, by which these would be wrong, are left out."""
    opened = open_bundle(bundle)
    stored = golden.read(opened)
    outputs = [small.named(function(i, small.column(o))) for i, o in enumerate(stored.outputs)]
    (bundle / golden.FILE).write_bytes(golden.pack(opened.manifest.signatures[0], stored.rows, outputs, None))
    small.sign(bundle)
    return bundle


def turned(index, outputs):
    """Another label everywhere."""
    return np.roll(outputs, 1, axis=1)


# ---- where nothing has to be compared


def test_a_load_where_the_bundle_was_built(float32_ort, compared, races):
    machine = open_bundle(float32_ort).manifest.machine
    assert machine == {"architecture": platform.machine(), "instructions": " ".join(cpu_instructions())}
    with edgekit.load(float32_ort) as session:
        assert session.info.chosen == "it won the race where the bundle was built"
    assert (compared, races.exists()) == ([], False)


# ---- where it has


@pytest.mark.parametrize(
    "what",
    [
        {"machine": {**ELSEWHERE, "instructions": " ".join(cpu_instructions())}},
        {"machine": {"architecture": platform.machine(), "instructions": "avx2"}},
        {"machine": {}, "format": 1},
        {
            "machine": {"architecture": platform.machine(), "instructions": " ".join(cpu_instructions())},
            "variant": {"versions": {"onnxruntime": "1.20.0"}},
        },
    ],
    ids=["architecture", "instructions", "a format that does not say", "version of the backend"],
)
def test_the_first_load_elsewhere(moved, compared, races, what, tiny_module):
    bundle = moved(**what)
    said = []
    for _ in range(3):
        with edgekit.load(bundle) as session:
            said.append(session.info.chosen)
            np.testing.assert_allclose(
                small.logits(session, ["film"]), small.torch_logits(tiny_module, ["film"]), atol=1e-3
            )
    assert compared == ["onnxruntime"], "once"
    assert len(list(races.iterdir())) == 1
    first, *later = (
        text.removeprefix("it won the race where the bundle was built; golden inputs compared at ") for text in said
    )
    assert first.startswith("this load, the first here: largest difference ")
    assert first.endswith(" ms)")
    assert set(later) == {first.replace("this load, the first here", "the first load here")}


def test_another_version_or_machine_compares_again(moved, compared, monkeypatch):
    bundle = moved()
    for version, instructions, count in (
        ("1.0", (), 1),
        ("1.0", (), 1),
        ("1.1", (), 2),
        ("1.1", ("sve",), 3),
        ("1.0", (), 3),
    ):
        monkeypatch.setattr(choice.backends, "installed_version", lambda name, version=version: version)
        monkeypatch.setattr(choice, "cpu_instructions", lambda instructions=instructions: instructions)
        edgekit.load(bundle).close()
        assert len(compared) == count


def test_what_computes_something_else_is_refused_every_time(moved, compared, races):
    bundle = with_goldens(moved(), turned)
    for count in (1, 2):
        with refused("variant-self-test") as caught:
            edgekit.load(bundle)
        assert len(compared) == count
    said = str(caught.value)
    assert said.startswith(
        "float32 on onnxruntime differs on this machine: its outputs for the golden inputs differ by "
    )
    assert "was built with onnxruntime " in said
    assert "on riscv64 (v). Install the version of the backend that it was built with" in said
    assert not races.exists(), "what was refused is looked at anew"


def test_a_record_that_is_no_record(moved, compared, races):
    bundle = moved()
    edgekit.load(bundle).close()
    (record,) = races.iterdir()
    for content in ("", "[]", "{}", '{"golden": ', "\0"):
        record.write_text(content)
        edgekit.load(bundle).close()
    assert len(compared) == 6


def test_an_altered_record_or_a_folder_of_others_is_not_believed(moved, compared, races, caplog):
    bundle = moved()
    edgekit.load(bundle).close()
    (record,) = races.iterdir()
    record.write_text(record.read_text().replace("largest difference", "no difference"))
    edgekit.load(bundle).close()
    assert "sha256" in caplog.text
    assert len(compared) == 2
    races.chmod(0o777)
    for count in (3, 4):
        with edgekit.load(bundle) as session:
            assert "compared at this load" in session.info.chosen
        assert len(compared) == count


def test_a_cache_that_cannot_be_written(moved, compared, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "cache"))
    bundle = moved()
    for _ in range(2):
        edgekit.load(bundle).close()
    assert len(compared) == 2


# ---- races


@pytest.fixture
def raced(float32_ort, tmp_path):
    """The float32 graph on both backends, raced where it is loaded."""
    bundle = small.copy(float32_ort, tmp_path / "raced")
    (first,) = json.loads((bundle / "manifest.json").read_text())["variants"]
    (graph,) = first["graphs"].values()
    stored = golden.read(open_bundle(bundle))
    signature = open_bundle(bundle).manifest.signatures[0]
    (bundle / golden.FILE).write_bytes(golden.pack(signature, stored.rows, stored.outputs * 2, stored.reference))
    small.sign(
        bundle,
        machine=ELSEWHERE,
        choose_on="device",
        variants=[first, {**first, "backend": "openvino", "graphs": {"forward": graph}}],
    )
    return bundle


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_variant_that_computes_something_else_does_not_race(raced, wrong, compared):
    names = ("float32 on onnxruntime", "float32 on openvino")
    opened = open_bundle(
        with_goldens(raced, lambda index, outputs: turned(index, outputs) if index == wrong else outputs)
    )
    for _ in range(2):
        with edgekit.load(raced) as session:
            assert f"{session.info.method} on {session.info.backend}" == names[1 - wrong]
            assert (
                f"; {names[wrong]} cannot run here: its outputs for the golden inputs differ by " in session.info.chosen
            )
            assert "golden inputs compared at the first load here: largest difference " in session.info.chosen
    assert sorted(compared) == ["onnxruntime", "openvino"]
    with refused("variant-self-test", f"{names[wrong]}"):
        edgekit.load(raced, backend=names[wrong].split()[-1])
    found = verify(opened)
    assert [one.wrong for one in found.variants] == [wrong == 0, wrong == 1]
    assert (found.problem(), found.compared) == ("", True), "the other one runs"


def test_a_backend_that_fails_its_self_test_does_not_race(raced, monkeypatch):
    monkeypatch.setattr(openvino_backend, "_fault", lambda device: "a layer is wrong")
    with edgekit.load(raced) as session:
        assert session.info.backend == "onnxruntime"
        assert "float32 on openvino cannot run here: OpenVINO " in session.info.chosen
        assert "failed its self-test" in session.info.chosen
    with refused("backend-wrong-results"):
        edgekit.load(raced, backend="openvino")
    found = verify(open_bundle(raced))
    assert (found.variants[1].wrong, found.variants[1].golden, found.problem()) == (True, None, "")


def test_the_longest_golden_input_is_not_timed(raced, monkeypatch):
    """It is of full length, and would outweigh what texts are like."""
    sizes = []
    real = choice.Session.run_rows
    monkeypatch.setattr(
        choice.Session,
        "run_rows",
        lambda self, rows: sizes.append(sorted(len(r["input_ids"]) for r in rows)) or real(self, rows),
    )
    edgekit.load(raced).close()
    whole = sorted(len(r["input_ids"]) for r in golden.read(open_bundle(raced)).rows)
    assert whole[-1] == small.MAX_LENGTH
    assert sizes[:2] == [whole, whole], "compared"
    assert sizes[2:] == [whole[:-1]] * 6, "timed"


@pytest.mark.parametrize(("threads", "opened"), [(None, 2), (1, 2), (2, 3)])
def test_the_winner_of_a_first_load_stays_open(raced, monkeypatch, threads, opened):
    """Each variant is opened once; only another number of threads than it was raced with asks for a new session."""
    real, made, closed = choice.Session.__init__, [], []
    monkeypatch.setattr(
        choice.Session, "__init__", lambda self, *given, **how: made.append(self) or real(self, *given, **how)
    )
    monkeypatch.setattr(
        choice.Session, "_free", lambda self, free=choice.Session._free: closed.append(self) or free(self)
    )
    monkeypatch.setattr(choice, "cpus", lambda: 1)
    with edgekit.load(raced, threads=threads) as session:
        assert len(made) == opened
        assert set(closed) == {one for one in made if one is not session}
        assert session.info.threads == (threads or 1)
        assert session("film").label in small.LABELS
        assert session.info.chosen.startswith("it won the race at this load: ")
    assert closed[-1] is session


# ---- CPUs on which INT8 saturates


@pytest.mark.parametrize(
    ("variant", "instructions", "opens"),
    [
        ({"recipe": {"weights": "8 bit"}}, ("avx2",), False),
        ({"recipe": {"weights": "8 bit"}}, ("avx2", "avx512f"), False),
        ({"recipe": {"weights": "8 bit"}}, ("avx2", "avx_vnni"), True),
        ({"recipe": {"weights": "8 bit"}}, ("asimd",), True),
        ({"recipe": {"weights": "7 bit"}}, ("avx2",), True),
        ({}, ("avx2",), True),
        ({"requires": {"instructions": "vnni"}}, ("avx2",), False),
    ],
)
def test_weights_of_8_bits_are_refused_where_they_saturate(moved, monkeypatch, variant, instructions, opens):
    """Wherever they were made: a bundle of an ARM machine requires nothing by name."""
    bundle = moved(variant=variant)
    monkeypatch.setattr(choice, "cpu_instructions", lambda: instructions)
    if opens:
        edgekit.load(bundle).close()
        return
    with refused("cpu-saturates", "VNNI"):
        edgekit.load(bundle)
    (found,) = verify(open_bundle(bundle)).variants
    assert (found.golden, found.wrong) == (None, False)
    assert "golden: not compared, float32 on onnxruntime: The bundle " in found.text()


# ---- verify


def test_a_damaged_golden_file_is_no_pass_where_nothing_runs(jetson, tmp_path):
    bundle = small.copy(jetson, tmp_path / "copy")
    (bundle / golden.FILE).write_bytes(b"x")
    small.sign(bundle)
    with refused("bundle-assets", "golden.npz"):
        verify(open_bundle(bundle))


def test_other_kernels_are_told_from_wrong_ones():
    """Answers of a simulated kernel that quantizes by row, against those of one that quantizes by tensor; and of one that is wrong."""
    random = np.random.default_rng(0)
    reference = random.standard_normal((17, 2)).astype(np.float32) * 3
    built, here = (reference + random.uniform(-0.4, 0.4, reference.shape).astype(np.float32) for _ in range(2))
    rows = [{} for _ in reference]

    def best(rows):
        return small.column(rows).argmax(axis=1)

    def decided(rows, tolerance):
        return np.abs(np.diff(small.column(rows).astype(float))[:, 0]) / 2 > tolerance

    task = SimpleNamespace(same_answer=lambda a, b: best(a) == best(b), decided=decided)
    stored = golden.Golden(rows, [small.named(built)], small.named(reference))
    found = golden.compare(stored, 0, small.named(here), task, True)
    assert found.difference > golden.TOLERANCE
    assert (found.passed, found.lost) == (True, 0)
    assert found.decisive > 8
    assert "from the float32 outputs" in found.text()
    wrong = reference.copy()
    wrong[np.abs(reference[:, 0] - reference[:, 1]).argmax()] *= -1
    for bad in (wrong, here + 3, np.roll(here, 1, axis=0), np.where(here == here[3, 0], np.nan, here)):
        assert golden.compare(stored, 0, small.named(bad), task, True).problem()
    assert golden.compare(stored, 0, small.named(here), task, False).problem(), (
        "INT8 by stored scales is no other on any CPU"
    )
    old = golden.Golden(rows, [small.named(built)], None)
    assert golden.compare(old, 0, small.named(here), task, True).problem(), (
        "a bundle of format 1 holds nothing to decide by"
    )
