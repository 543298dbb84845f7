"""What pip installs: the wheel's files, and a device's Python that holds nothing but the wheel and its backends."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import venv
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import small

import edgekit

pytestmark = [pytest.mark.slow, pytest.mark.system]

ANSWERS = json.loads((small.ROOT / "tests/data/answers.json").read_text("utf-8"))
TEXTS = [*ANSWERS["texts"][:20], "", "😀 שלום"]
BROUGHT_ALONG = {"huggingface_hub", "packaging", "flatbuffers"}  # where tokenizers or the backend itself imports them
NOT_THERE = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "rich")


def pip(*arguments):
    done = small.run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    before = sorted(small.ROOT.iterdir())
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, small.ROOT)
    assert sorted(small.ROOT.iterdir()) == before, "building leaves nothing in the checkout"
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def device(wheel, tmp_path_factory):
    """A fresh environment with the wheel, ONNX Runtime and OpenVINO. ``-I`` keeps the checkout and the user's site out."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder / "venv", with_pip=False)
    programs = folder / "venv" / "bin"
    constraints = ("--constraint", small.ROOT / "constraints.txt") if (small.ROOT / "constraints.txt").is_file() else ()
    options = ("--quiet", "--no-compile", *constraints)  # few of the modules are imported
    pip("--python", programs / "python", "install", *options, f"{wheel}[onnxruntime,openvino]")

    def python(code, *arguments, **environment):
        return small.run(programs / "python", "-I", "-c", code, *arguments, cwd=folder, **environment)

    return SimpleNamespace(python=python, programs=programs, folder=folder)


def test_the_wheel_holds_the_package_and_its_data(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    kinds = ("*.py", "*.onnx", "*.tflite", "*.j2", "*.css", "*.json", "py.typed")
    files = {p.relative_to(small.ROOT).as_posix() for kind in kinds for p in (small.ROOT / "edgekit").rglob(kind)}
    assert len([f for f in files if f.startswith("edgekit/report/gemm/")]) == 4
    for data in ("targets", "calibration"):
        files |= {
            "edgekit/" + p.relative_to(small.ROOT).as_posix() for p in (small.ROOT / data).rglob("*") if p.is_file()
        }
    assert {n for n in names if ".dist-info/" not in n} == files
    assert {n.split("/")[1] for n in names if ".dist-info/" in n} >= {
        "METADATA",
        "RECORD",
        "entry_points.txt",
        "licenses",
    }
    assert [
        n for n in names if any(part in n.split("/") for part in ("tests", "benchmarks", "examples", "__pycache__"))
    ] == []


def test_what_it_asks_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        lines = archive.read(name).decode().splitlines()
    asked = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert sorted(a.split(">=")[0] for a in asked if "extra ==" not in a) == ["numpy", "tokenizers"]
    assert "Requires-Python: >=3.10" in lines
    (tensorrt,) = [a for a in asked if a.startswith("tensorrt<") and "extra == 'tensorrt'" in a]
    assert "platform_machine != 'aarch64'" in tensorrt, "JetPack brings it there; pip would try to build a placeholder"
    assert not any("platform_machine == 'x86_64'" in a for a in asked), "TensorRT-RTX has wheels for 64-bit ARM too"
    from edgekit.spec.distribution import DISTRIBUTION

    assert wheel.name.startswith(DISTRIBUTION.replace("-", "_") + "-")
    assert f"Name: {DISTRIBUTION}" in lines
    assert f"Version: {edgekit.__version__}" in lines
    assert len([line for line in lines if line.startswith("Project-URL: ")]) == 5


@pytest.mark.parametrize(
    ("machine", "version", "taken"),
    [
        *[("x86_64", version, True) for version in ("2025.4.1", "2026.2.0", "2026.3.0", "2026.4.1")],
        *[("aarch64", version, True) for version in ("2025.4.1", "2026.2.0", "2026.2.1")],
        *[("aarch64", version, False) for version in ("2024.6.0", "2026.3.0", "2026.4.1", "2026.5.0")],
    ],
)
def test_the_openvino_that_a_machine_gets(wheel, machine, version, taken):
    """From 2026.3 on its INT8 layers are wrong on aarch64. What pip installs there in the tests is one that the extra takes."""
    from packaging.requirements import Requirement

    def asked(lines, **environment):
        found = [Requirement(line) for line in lines if line.startswith("openvino")]
        (one,) = [
            r for r in found if r.marker is None or r.marker.evaluate({"platform_machine": machine, **environment})
        ]
        return one.specifier

    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        lines = [
            line.removeprefix("Requires-Dist: ")
            for line in archive.read(name).decode().splitlines()
            if line.startswith("Requires-Dist: ")
        ]
    extra = asked(lines, extra="openvino")
    assert extra.contains(version) is taken
    (pinned,) = asked((small.ROOT / "constraints.txt").read_text().splitlines())
    assert extra.contains(pinned.version)


def test_the_device_has_nothing_to_build_with(device):
    code = "import importlib.util as u, json, sys; print(json.dumps([n for n in sys.argv[1:] if u.find_spec(n)]))"
    assert json.loads(device.python(code, *NOT_THERE).stdout) == []
    assert json.loads(device.python(code, "numpy", "onnxruntime", "openvino").stdout) == [
        "numpy",
        "onnxruntime",
        "openvino",
    ]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_device_predicts(device, float32_ort, float32_openvino, backend):
    """Its answers are those of torch; for texts without words, those of this environment, which other tests compare with torch."""
    bundle = {"onnxruntime": float32_ort, "openvino": float32_openvino}[backend]
    code = """
import json, sys
before = {m.split(".")[0] for m in sys.modules}
import edgekit
from pathlib import Path
from edgekit.runtime.golden import check
texts = json.loads(sys.argv[2])
with edgekit.load(sys.argv[1]) as session:
    logits = [row["logits"].tolist() for row in session.outputs(texts)]
    labels = [a.label for a in session(texts)]
    golden = check(session).passed
    info = session.info.backend
modules = sorted({m.split(".")[0] for m in sys.modules} - before - set(sys.stdlib_module_names))
print(json.dumps([edgekit.__file__, info, logits, labels, golden, modules]))
"""
    done = device.python(code, bundle, json.dumps(TEXTS))
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    file, runs, logits, labels, golden, modules = json.loads(done.stdout)
    with edgekit.load(bundle) as session:
        expected = np.concatenate([ANSWERS["logits"][:20], small.logits(session, TEXTS[20:])])
    assert file.startswith(str(device.folder))
    assert runs == backend
    np.testing.assert_allclose(logits, expected, atol=1e-3)
    assert labels == [small.LABELS[i] for i in expected.argmax(axis=1)]
    assert golden
    alone = device.python(
        f"import json, sys, tokenizers, {backend}; print(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))"
    )
    others = (
        set(modules) - {"edgekit", "numpy", "tokenizers", backend} - (BROUGHT_ALONG & set(json.loads(alone.stdout)))
    )
    assert others == set()


def test_a_device_has_the_data_of_the_wheel(device):
    code = """
import json
from edgekit import samples
from edgekit.spec import target
print(json.dumps([[target.load(n).name for n in target.names()], {n: len(samples.read(n)) for n in samples.shipped()}]))
"""
    names, sets = json.loads(device.python(code).stdout)
    assert names == sorted(p.stem for p in (small.ROOT / "targets").glob("*.toml"))
    assert sorted(sets) == sorted(p.stem for p in (small.ROOT / "calibration").glob("*.toml"))
    assert min(sets.values()) >= 16


def test_a_hint_works_beside_an_installed_wheel(device):
    """pip takes the installed distribution for a requirement with extras: no index has to know this project."""
    from edgekit.spec.distribution import DISTRIBUTION, requirement

    python = device.programs / "python"
    output = pip("--python", python, "install", "--no-index", requirement("onnxruntime", "openvino"))
    assert f"Requirement already satisfied: {DISTRIBUTION}[onnxruntime,openvino]" in output


def test_a_device_that_is_asked_to_build_says_what_is_missing(device):
    done = device.python("import edgekit; edgekit.build('m', samples='s', eval='e', out='o')")
    assert done.returncode == 1
    assert "Run: pip install 'edgekit-sdk[build]'" in done.stderr.decode().splitlines()[-1]


def test_the_command_on_a_device(device, float32_ort):
    """click may come along with what tokenizers asks for; without it the command says how to get it."""
    command = device.programs / "edgekit"
    if json.loads(device.python("import importlib.util as u; print(int(u.find_spec('click') is not None))").stdout):
        done = small.run(command, "run", float32_ort, TEXTS[0])
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["label"] in small.LABELS
        done = small.run(command, "build", "m", "--samples", "s", "--eval", "e", "-o", "o")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"edgekit: error[package-missing]: ")
        assert b"pip install 'edgekit-sdk[build]'" in done.stderr
        terminal = f"{command} bench {float32_ort} --batches 1 --lengths 4 --seconds 0.05"
        done = small.run(
            sys.executable,
            "-c",
            "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)",
            *terminal.split(),
            stdin=b"",
        )
        assert (done.returncode, b"Traceback" in done.stdout) == (0, False), (
            "on a terminal without rich there are just no bars"
        )
        pip("--python", device.programs / "python", "uninstall", "--quiet", "--yes", "click")
    done = small.run(command, "--help")
    assert (done.returncode, done.stdout) == (1, b"")
    assert (
        done.stderr.decode()
        == "The command line needs click and rich. Run: pip install 'edgekit-sdk[cli]' (on the build machine: 'edgekit-sdk[build]').\n"
    )


def test_what_a_device_runs_is_python_3_10():
    """Types know what the standard library of a version has; syntax is checked in ``test_floors.py``."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    parts = [
        option for part in ("spec", "tasks", "backends", "engines", "runtime") for option in ("-p", f"edgekit.{part}")
    ]
    command = [sys.executable, "-m", "mypy", "--python-version", "3.10", "--cache-dir", "/dev/null", *parts]
    done = subprocess.run(command, cwd=small.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_users_types_tell_one_answer_from_a_list_of_them(tmp_path):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    assert (small.ROOT / "edgekit" / "py.typed").is_file(), (
        "without it types are not looked at where EdgeKit is installed"
    )
    program = "import edgekit\ndef use(session: edgekit.Session, text: str) -> None:\n"
    (tmp_path / "user.py").write_text(
        program + "    reveal_type(session([text]))\n    reveal_type(session(text))\n    session([text]).label\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--follow-imports",
        "silent",
        "--cache-dir",
        "/dev/null",
        str(tmp_path / "user.py"),
    ]
    done = subprocess.run(command, cwd=small.ROOT, capture_output=True, text=True, check=False)
    assert 'Revealed type is "list[Any]"' in done.stdout.replace("builtins.", "")
    assert 'Revealed type is "Any"' in done.stdout
    assert '"list[Any]" has no attribute "label"' in done.stdout
