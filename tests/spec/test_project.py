"""``edgekit.toml``: search for the file, its keys, resolution of paths, and overrides."""

from __future__ import annotations

import os

import pytest
from refusals import refused

from edgekit.spec.gates import Gates
from edgekit.spec.options import CHECK_SECONDS, CheckOptions
from edgekit.spec.project import FILE, Check, Project, checks, find, nearest, places, read
from edgekit.spec.target import Budget

WHOLE = """
model = "owner/name"
revision = "v2"
samples = "voice-commands"
eval = "data/dev.jsonl"
test = "/abs/test.csv"
targets = ["cpu", "own/board.toml"]
out = "out"
baseline = "baselines"
slices = ["source"]
seed = 3
columns = { text = "sentence" }

[budget]
p50_ms = 5
accuracy_drop = 0.02

[gates.latency]
p99 = "off"
[gates.accuracy]
drop = 0.03
[gates.budget]
size_mb = 40

[build]
strict = true
keep_float = ["classifier"]
use = "throughput"
max_time = 60
calibration_rows = 100
distill = [{ layers = 3 }, { student = "./student", epochs = 2 }]
distill_samples = ["data/more.jsonl"]
vocabulary = "data/tokens.txt"
tokenizer = "file"
problem_type = "regression"

[check]
max_time = 12.5
strict = true
allow_incomparable = true
self_check = true
report = "reports"
keys = ["maker.pub"]
"""


@pytest.fixture
def write(tmp_path):
    def write_file(text, folder="repo"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        file = tmp_path / folder / FILE
        file.write_text(text, "utf-8")
        return file

    return write_file


# ---- search


def test_the_nearest_up_to_the_root_of_the_repository(tmp_path, write):
    file = write("", "repo")
    deep = tmp_path / "repo/a/b"
    deep.mkdir(parents=True)
    assert find(deep) == find(tmp_path / "repo") == file
    nearer = write("", "repo/a")
    assert find(deep) == nearer
    assert find(tmp_path / "repo") == file


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_repository_ends_the_search(tmp_path, write, kind):
    """A worktree or a submodule has a ``.git`` file."""
    outside = write("", ".")
    inner = tmp_path / "other/deep"
    inner.mkdir(parents=True)
    assert find(inner) == outside
    mark = tmp_path / "other/.git"
    mark.mkdir() if kind == "folder" else mark.write_text("gitdir: elsewhere")
    assert find(inner) is None
    with refused("project-not-found", "edgekit.toml"):
        nearest(inner, "Write one.")
    file = write("", "other")
    assert find(inner) == file, "the root of the repository itself counts"
    assert nearest(inner, "").path == file


def test_a_link_is_followed(tmp_path, write):
    file = write("", "repo")
    (tmp_path / "repo/a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "repo/a")
    assert find(tmp_path / "link") == file


def test_a_folder_of_that_name_is_ignored(tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / FILE).mkdir()
    assert find(tmp_path) is None
    with refused("project-not-found"):
        read(tmp_path / FILE)
    with refused("project-not-found"):
        read(tmp_path / "none.toml")


# ---- contents


def test_all_of_it(write, tmp_path):
    repo = tmp_path / "repo"
    found = read(write(WHOLE))
    assert (found.model, found.revision, found.samples, found.seed, found.slices) == (
        "owner/name",
        "v2",
        "voice-commands",
        3,
        ("source",),
    )
    assert (found.eval, found.test, found.out) == (str(repo / "data/dev.jsonl"), "/abs/test.csv", str(repo / "out"))
    assert (found.columns, found.baseline) == ({"text": "sentence"}, str(repo / "baselines"))
    assert found.targets == ("cpu", str(repo / "own/board.toml"))
    assert found.budget == Budget(p50_ms=5.0, accuracy_drop=0.02)
    assert found.gates.budget == Budget(p50_ms=5.0, accuracy_drop=0.02, size_mb=40.0), (
        "the budget counts for checks too"
    )
    assert (
        found.gates.latency.p50,
        found.gates.latency.p99,
        found.gates.accuracy.drop,
        found.gates.footprint.size,
    ) == (0.05, None, 0.03, 0.10)
    build, check = found.build, found.check
    assert (build.strict, build.keep_float, build.use, build.max_time, build.calibration_rows) == (
        True,
        ("classifier",),
        "throughput",
        60.0,
        100,
    )
    assert build.distill == ({"layers": 3}, {"student": str(repo / "student"), "epochs": 2})
    assert (build.distill_samples, build.vocabulary) == (
        (str(repo / "data/more.jsonl"),),
        str(repo / "data/tokens.txt"),
    )
    assert build.model_options == {"tokenizer": "file", "problem_type": "regression"}
    assert (check.max_time, check.strict, check.allow_incomparable, check.self_check) == (12.5, True, True, True)
    assert (check.report, check.keys) == (str(repo / "reports"), (str(repo / "maker.pub"),))


def test_an_empty_file_is_the_defaults(write):
    file = write("")
    assert read(file) == Project(path=file)
    assert read(file).gates == Gates()


@pytest.mark.parametrize(
    ("text", "exists", "expected"),
    [
        ("owner/name", False, "owner/name"),
        ("owner/name", True, "repo/owner/name"),
        ("name", False, "name"),
        ("./name", False, "repo/name"),
        ("../name", False, "repo/../name"),
        ("a/b/c", False, "repo/a/b/c"),
        ("/abs/model", False, "/abs/model"),
        ("~/model", False, "HOME/model"),
    ],
)
def test_a_model_is_a_folder_or_a_hub_id(write, tmp_path, monkeypatch, text, exists, expected):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if exists:
        (tmp_path / "repo" / text).mkdir(parents=True)
    expected = expected.replace("HOME", str(tmp_path / "home"))
    if expected.startswith("repo"):
        expected = str(tmp_path / "repo") + expected.removeprefix("repo")
    model = read(write(f'model = "{text}"')).model
    assert os.path.normpath(model) == os.path.normpath(expected)


def test_samples_may_be_the_name_of_a_set(write, tmp_path):
    text = 'samples = "voice-commands"\neval = "dev.jsonl"\n[build]\nvocabulary = "samples"'
    project = read(write(text))
    assert (project.samples, project.eval, project.build.vocabulary) == (
        "voice-commands",
        str(tmp_path / "repo/dev.jsonl"),
        "samples",
    )
    (tmp_path / "repo/voice-commands").write_text("")
    assert read(write(text)).samples == str(tmp_path / "repo/voice-commands")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "modle = 'm'",
            ("name-unknown", "modle", "edgekit.toml", "model"),
        ),
        ("path = 'm'", ("name-unknown", "path")),
        ("[gates.latncy]\np50 = 1", ("key-unknown", "latncy", "latency")),
        ("[gates.latency]\np5 = 1", ("key-unknown", "p5", "p50")),
        ("[gates.latency]\np50 = -1", ("gates-value", "1")),
        ("gates = 'gates.toml'", "project-value"),
        ("[build]\ncalibration_row = 1", ("key-unknown", "calibration_row", "calibration_rows")),
        ("[build]\nstrikt = 'x'", ("key-unknown", "strikt", "strict")),
        ("[budget]\np50 = 1", ("key-unknown", "p50", "p50_ms")),
        ("[budget]\np50_ms = -1", ("budget-value", "1", "0")),
        ("[budget]\np50_ms = nan", "value-not-finite"),
        ("[budget]\np50_ms = 4\n[gates.budget]\np50_ms = 5", "project-budget-twice"),
        ("[build]\nstrickt = true", ("key-unknown", "strict")),
        ("[check]\nmaxtime = 3", ("key-unknown", "max_time")),
        ("[check]\nmax_time = 0", ("project-value", "0")),
        ("[build]\nmax_time = -1", ("project-value", "0")),
        ("[build]\ncalibration_rows = 0", ("project-value", "1")),
        ("[build]\nstrict = 1", ("value-type", "1")),
        ("targets = []", "project-value"),
        ("targets = 'cpu'", "value-type"),
        ("targets = ['cpu', 'x/cpu.toml']", ("project-value", "cpu")),
        ("seed = '0'", ("value-type", "0")),
        ("baseline = ''", "project-value"),
        ("model = 3", ("value-type", "3")),
        ("model = ", "toml-invalid"),
    ],
)
def test_invalid_files(write, text, error):
    file = write(text)
    with refused(error) as caught:
        places(read(file))
    assert FILE in str(caught.value)


def test_a_command_names_the_missing_key(write):
    project = read(write('model = "m"'))
    project.need("edgekit build", "model")
    with refused("project-key-missing", f"{project.path}", "samples"):
        project.need("edgekit build", "model", "samples", "eval")


# ---- paths of each target


def test_one_target_has_a_sub_folder_for_its_bundle_alone(write, tmp_path):
    (place,) = places(read(write('out = "out"\nbaseline = "b.json"\n[check]\nreport = "r"')))
    repo = tmp_path / "repo"
    assert (place.target, place.name, place.bundle, place.baseline, place.report) == (
        "cpu",
        "cpu",
        str(repo / "out/cpu"),
        str(repo / "b.json"),
        str(repo / "r"),
    )


def test_several_have_sub_folders(write, tmp_path):
    repo = tmp_path / "repo"
    project = read(write(WHOLE))
    (repo / "baselines/board").mkdir(parents=True)
    cpu, board = places(project)
    assert (cpu.target, cpu.name, cpu.bundle, cpu.report) == (
        "cpu",
        "cpu",
        str(repo / "out/cpu"),
        str(repo / "reports/cpu"),
    )
    assert (board.target, board.name, board.bundle) == (str(repo / "own/board.toml"), "board", str(repo / "out/board"))
    assert (cpu.baseline, board.baseline) == (str(repo / "baselines/cpu.json"), str(repo / "baselines/board")), (
        "a file, unless there is a bundle"
    )
    assert [p.report for p in places(project, report="here")] == [
        os.path.join("here", "cpu"),
        os.path.join("here", "board"),
    ]
    (repo / "baselines/board.json").write_text("")
    with refused("project-two-baselines", "board.json"):
        places(project)


def test_one_of_several(write, tmp_path):
    project, repo = read(write(WHOLE)), tmp_path / "repo"
    assert [(p.target, p.bundle) for p in places(project, only="board")] == [
        (str(repo / "own/board.toml"), str(repo / "out/board"))
    ]
    assert [(p.target, p.bundle) for p in places(project, only="jetson")] == [("jetson", str(repo / "out/jetson"))]
    assert [(p.target, p.bundle) for p in places(project, only="x/board.toml")] == [
        ("x/board.toml", str(repo / "out/board"))
    ]


# ---- checks


def test_checks_are_as_the_file_says(write, tmp_path):
    project, repo = read(write(WHOLE)), tmp_path / "repo"
    cpu, board = checks(project, None, {})
    assert (cpu.name, board.name, board.bundle) == ("cpu", "board", str(repo / "out/board"))
    assert cpu == Check(
        name="cpu",
        bundle=str(repo / "out/cpu"),
        baseline=str(repo / "baselines/cpu.json"),
        samples=project.eval,
        options=CheckOptions(
            columns={"text": "sentence"},
            slices=("source",),
            gates=project.gates,
            report=str(repo / "reports/cpu"),
            keys=(str(repo / "maker.pub"),),
            max_time=12.5,
            seed=3,
            strict=True,
            allow_incomparable=True,
            self_check=True,
        ),
    )


def test_what_is_given_wins(write):
    project = read(write(WHOLE.replace('targets = ["cpu", "own/board.toml"]\n', "")))
    said = {
        "baseline": "b",
        "samples": "s",
        "columns": {},
        "slices": (),
        "report": "r",
        "keys": ("k",),
        "max_time": 1.0,
        "seed": 0,
        "strict": False,
    }
    (check,) = checks(project, None, {**said, "allow_incomparable": False, "self_check": None})
    assert {
        name: getattr(check, name) if hasattr(check, name) else getattr(check.options, name) for name in said
    } == said
    assert (check.options.allow_incomparable, check.options.self_check) == (False, True), "None is left to the file"


def test_other_gates_keep_the_limits_that_they_do_not_name(write):
    project = read(write(WHOLE))
    gates = Gates(budget=Budget(p50_ms=9.0))
    check = checks(project, None, {"gates": gates})[0]
    assert check.options.gates == Gates(budget=Budget(p50_ms=9.0, accuracy_drop=0.02)), (
        "of [budget]; [gates.budget] went with [gates]"
    )


def test_one_bundle_alone(write, tmp_path, monkeypatch):
    project, repo = read(write(WHOLE)), tmp_path / "repo"
    monkeypatch.chdir(repo)
    (board,) = checks(project, "out/board", {})
    assert (board.name, board.bundle, board.baseline) == (
        "board",
        str(repo / "out/board"),
        str(repo / "baselines/board.json"),
    ), "that of a target"
    (other,) = checks(project, "elsewhere", {})
    assert (other.name, other.bundle, other.baseline, other.options.report) == ("", "elsewhere", None, None), (
        "of several targets none is meant"
    )
    assert (other.samples, other.options.max_time) == (project.eval, 12.5)
    single = read(write('out = "out"\nbaseline = "b.json"'))
    assert checks(single, "elsewhere", {})[0].baseline == str(repo / "b.json")


def test_without_a_file():
    (check,) = checks(Project(), "bundle", {"samples": "s"})
    assert (check.name, check.bundle, check.baseline, check.samples, check.options.report) == (
        "",
        "bundle",
        None,
        "s",
        None,
    )
    assert (check.options.max_time, check.options.seed, check.options.strict, check.options.gates) == (
        CHECK_SECONDS,
        0,
        False,
        Gates(),
    )
    assert checks(Project(), ".", {})[0].name == "", (
        "the current folder is not the bundle of a target that nobody named"
    )
