"""The pytest plugin, in runs of pytest of its own: as it is installed, and as it is named with ``-p``."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from types import SimpleNamespace

import pytest
import small
from measuring import quick
from refusals import refused

from edgekit.pytest_plugin import EdgekitWarning, assert_no_regression
from edgekit.report import check, files
from edgekit.report.render import NAMES
from edgekit.spec.gates import Gates
from edgekit.spec.report import INCOMPARABLE, INCONCLUSIVE, OVER_BUDGET, PASS, REGRESSION, SCHEMA, Gate, Report
from edgekit.spec.subject import Fingerprint, Subject

pytest_plugins = ["pytester"]

NAME = "edgekit.pytest_plugin"


@pytest.fixture
def run(pytester):
    """Runs pytest on what is in its folder. The plugin is named: it is there whether the package was installed with its entry point or not."""
    (pytester.path / ".git").mkdir()

    options = ("-p", "edgekit.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:randomly")

    def ran(*more):
        return pytester.runpytest_subprocess(*options, *more)

    def ran_here(*more):
        return pytester.runpytest_inprocess(*options, *more)

    return SimpleNamespace(run=ran, run_here=ran_here, file=pytester.makepyfile, path=pytester.path, pytester=pytester)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, float32_ort, tiny_samples):
    file = tmp_path_factory.mktemp("baseline") / "b.json"
    with quick():
        files.write(check.baseline(float32_ort, tiny_samples.dev), file)
    return file


def test_it_is_an_entry_point_of_the_package():
    import tomllib

    declared = tomllib.loads((small.ROOT / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["pytest11"]
    assert declared == {NAME: NAME}


@pytest.mark.slow
def test_a_run_that_uses_nothing_of_it_pays_for_nothing(run):
    """Beside pytest: numpy and tokenizers, which the package imports. Neither backends nor statistics, and nothing of the build."""
    run.file(
        """
        import sys

        def test_modules():
            heavy = {"torch", "transformers", "onnx", "onnxruntime", "openvino", "scipy", "jinja2", "click", "rich", "tomllib"}
            assert "edgekit.pytest_plugin" in sys.modules
            assert {m.split(".")[0] for m in sys.modules} & heavy == set()
            assert [m for m in sys.modules if m.startswith(("edgekit.report", "edgekit.spec.project"))] == []
        """
    )
    run.run().assert_outcomes(passed=1)


def test_help_names_what_it_adds(run):
    result = run.run_here("--help")
    result.stdout.fnmatch_lines(["EdgeKit bundles:", "*--edgekit-bundle=FOLDER*", "*edgekit_bundle (string):*"])
    result = run.run_here("--fixtures")
    result.stdout.fnmatch_lines(["edgekit_bundle [[]session scope[]]*"])


# ---- edgekit_bundle


USES = """
def test_one(edgekit_bundle):
    assert edgekit_bundle("the film was fine").label in ("negative", "neutral", "positive")
    global first
    first = edgekit_bundle

def test_two(edgekit_bundle):
    assert edgekit_bundle is first
    print("opened", edgekit_bundle.info.bundle)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["option", "setting", "file"])
def test_a_bundle_is_opened_once(run, float32_ort, how):
    run.file(USES)
    (run.path / "there").symlink_to(float32_ort)
    (run.path / "bundles").mkdir()
    (run.path / "bundles/cpu").symlink_to(float32_ort)
    options = ()
    if how == "option":
        options = ("--edgekit-bundle", "there")
        run.pytester.makeini("[pytest]\nedgekit_bundle = not-this-one")
    elif how == "setting":
        run.pytester.makeini("[pytest]\nedgekit_bundle = there")
        (run.path / "edgekit.toml").write_text('out = "not-this-one"')
    else:
        (run.path / "edgekit.toml").write_text('out = "bundles"')
    result = run.run("-s", *options)
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*opened *" + ("bundles/cpu" if how == "file" else "there")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            None,
            "*edgekit: No bundle is named. Name one: --edgekit-bundle FOLDER, edgekit_bundle = FOLDER in pytest's settings, or out = *",
        ),
        ('eval = "e"', "*edgekit: No bundle is named.*"),
        (
            'out = "o"\ntargets = ["cpu", "gpu"]',
            "*edgekit.toml has 2 targets (cpu, gpu), and it is not said whose bundle is meant. Name one:*",
        ),
        ("outt = 1", "*edgekit: Unknown key 'outt' in *Did you mean 'out'*"),
    ],
)
def test_no_bundle_is_an_error_and_no_skip(run, text, said):
    run.file(USES)
    if text is not None:
        (run.path / "edgekit.toml").write_text(text)
    result = run.run_here()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([said])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")


# ---- assert_no_regression


@pytest.mark.slow
def test_the_fixture_knows_the_file_and_the_option(run, float32_ort, baseline, tiny_samples):
    """One test compares with a baseline of other answers: a regression, in words, and no traceback of ours."""
    found = files.read(baseline)
    (subject,) = found.subjects
    right = tuple(8.0 if name == row["label"] else 0.0 for row in tiny_samples.rows for name in small.LABELS)
    settings = {
        **subject.settings,
        "file graphs/model.onnx": "0" * 64,
    }  # of another bundle: one and itself is no regression, whatever a file says
    outputs = {"logits": replace(subject.predictions.outputs["logits"], values=right)}
    perfect = replace(
        subject, digest="0" * 64, path="", settings=settings, predictions=replace(subject.predictions, outputs=outputs)
    )
    files.write(replace(found, subjects=(perfect,)), run.path / "right.json")
    (run.path / "edgekit.toml").write_text(
        f'out = "not-this-one"\neval = "{tiny_samples.dev}"\nbaseline = "{baseline}"\n[gates.latency]\np50 = 9\np90 = "off"\np99 = "off"\n'
        '[gates.accuracy]\ndrop = 0.1\n[gates.footprint]\nfirst_answer = 9\nmemory = 1\n[check]\nreport = "report"\n'
    )
    run.file(
        """
        from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates

        def test_as_the_file_says(assert_no_regression):
            assert assert_no_regression().verdict == "pass"

        def test_against_one_that_is_always_right(assert_no_regression, monkeypatch):
            monkeypatch.setattr("edgekit.report.run._PROCESSES", 1)
            off = LatencyGates(None, None, None), FootprintGates(None, None, None)
            assert_no_regression(baseline="right.json", gates=Gates(off[0], AccuracyGates(0.01), off[1]), report="other")
        """
    )
    with quick():
        result = run.run("--edgekit-bundle", float32_ort)
    result.assert_outcomes(passed=1, failed=1)
    for folder, verdict in (("report", PASS), ("other", REGRESSION)):
        assert sorted(p.name for p in (run.path / folder).iterdir()) == sorted(NAMES)
        report = files.read(run.path / folder / "report.json")
        assert (report.kind, report.verdict, report.subjects[-1].name) == ("check", verdict, "onnxruntime")
    result.stdout.fnmatch_lines(
        [
            "E*AssertionError: regression: onnxruntime against onnxruntime, 120 samples",
            "E*  regression: accuracy.drop: accuracy 1.0000 to 0.9500*",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
    assert small.CANARY not in str(result.stdout) + str(result.stderr)


ASKED_FOR = ("columns", "slices", "gates", "self_check", "include_text", "max_time", "seed")


@pytest.fixture
def asked(monkeypatch):
    """What the check is asked; it answers at once with a report of the verdicts that were given."""
    seen = SimpleNamespace(calls=[], verdicts=(PASS,))

    def call(*arguments, **options):
        chosen = vars(options["options"])
        asked_for = {name: chosen[name] for name in ASKED_FOR} | {"trust": options["trust"]}
        seen.calls.append((tuple(map(str, arguments)), asked_for))
        gates = tuple(
            Gate(f"latency.g{i}", verdict, 0.1, 0.0, 0.0, 0.0, f"sentence {i}")
            for i, verdict in enumerate(seen.verdicts)
        )
        two = tuple(
            Subject(name, "0" * 64, 1, "m", "text-classification", {"labels": ["a", "b"]}, ("a", "b"))
            for name in ("old", "new")
        )
        return Report(
            SCHEMA,
            "check",
            "2024-01-01T00:00:00Z",
            0,
            "sha256:00",
            7,
            Fingerprint("0", "3", "Linux", "a CPU", 2),
            two,
            gates=gates,
        )

    monkeypatch.setattr(check, "check", call)
    return seen


@pytest.mark.parametrize(
    ("verdicts", "options", "ends"),
    [
        ((PASS, PASS), {}, None),
        ((PASS, REGRESSION), {}, "regression"),
        ((OVER_BUDGET, PASS), {}, "over budget"),
        ((PASS, INCOMPARABLE), {}, "incomparable"),
        ((PASS, INCOMPARABLE), {"allow_incomparable": True}, "warning"),
        ((PASS, INCONCLUSIVE), {}, "warning"),
        ((PASS, INCONCLUSIVE), {"strict": True}, "inconclusive"),
        ((INCONCLUSIVE, INCOMPARABLE), {"allow_incomparable": True, "strict": True}, "incomparable"),
    ],
)
def test_what_fails_and_what_warns(asked, verdicts, options, ends, recwarn):
    asked.verdicts = verdicts
    arguments = {"bundle": "b", "baseline": "a", "samples": "s", **options}
    if ends in (None, "warning"):
        assert assert_no_regression(**arguments).gates
        assert [w.category for w in recwarn] == ([EdgekitWarning] if ends else [])
        assert all(w.filename == __file__ for w in recwarn), "a warning is of the line that asked"
        return
    with pytest.raises(AssertionError) as failed:
        assert_no_regression(**arguments)
    lines = str(failed.value).splitlines()
    assert lines[0] == f"{ends}: new against old, 7 samples"
    assert lines[1:] == [f"  {v}: latency.g{i}: sentence {i}" for i, v in enumerate(verdicts) if v != PASS]


def test_defaults_of_the_file_and_what_wins(asked, tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / "edgekit.toml").write_text(
        'out = "o"\neval = "e.csv"\nbaseline = "b.json"\nslices = ["a"]\nseed = 4\ncolumns = { text = "t" }\n[budget]\nsize_mb = 3\n'
        "[check]\nmax_time = 7\nstrict = true\nself_check = true\nallow_incomparable = true\n"
    )
    monkeypatch.chdir(tmp_path)
    asked.verdicts = (INCOMPARABLE,)
    with pytest.warns(EdgekitWarning, match="incomparable: new against old"):
        assert_no_regression()
    own = str(tmp_path)
    gates = Gates(budget=replace(Gates().budget, size_mb=3.0))
    told = {
        "columns": {"text": "t"},
        "slices": ("a",),
        "gates": gates,
        "self_check": True,
        "include_text": False,
        "trust": None,
        "max_time": 7.0,
        "seed": 4,
    }
    assert asked.calls.pop() == ((f"{own}/o/cpu", f"{own}/b.json", f"{own}/e.csv"), told)
    (tmp_path / "gates.toml").write_text("[budget]\nsize_mb = 5\n")
    given = {
        "columns": {"text": "x"},
        "slices": ("z",),
        "self_check": False,
        "include_text": True,
        "max_time": 1.0,
        "seed": 0,
    }
    with pytest.raises(AssertionError):
        assert_no_regression(
            "x", baseline="y", samples="s", gates="gates.toml", strict=False, allow_incomparable=False, **given
        )
    assert asked.calls.pop() == (
        ("x", "y", "s"),
        {**given, "gates": Gates(budget=replace(Gates().budget, size_mb=5.0)), "trust": None},
    )


def test_what_is_missing(asked, tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    for arguments, said in [
        ({}, "bundle-not-named"),
        ({"bundle": "b"}, ("option-missing", "assert_no_regression")),
        ({"bundle": "b", "baseline": "a"}, "option-missing"),
        ({"bundle": "b", "baseline": "a", "samples": "s", "gates": "none.toml"}, ("gates-not-found", "none.toml")),
    ]:
        with refused(said):
            assert_no_regression(**arguments)
    assert asked.calls == []


def test_what_is_damaged_is_no_regression(float32_ort, tiny_samples, tmp_path):
    """An error of its own: whoever expects an AssertionError must not take it for one."""
    damaged = small.copy(float32_ort, tmp_path / "damaged")
    (damaged / "graphs/model.onnx").write_bytes(b"x")
    for arguments in ({"bundle": damaged, "baseline": float32_ort}, {"bundle": float32_ort, "baseline": damaged}):
        with refused("bundle-file-size", "model.onnx"):
            assert_no_regression(**arguments, samples=tiny_samples.dev)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("named", ["", "-p", "conftest.py"])
def test_it_is_there_once_however_it_was_loaded(run, monkeypatch, installed, named):
    """As an entry point it loads by itself; named beside it, it is no second plugin with the same options, which pytest refuses."""
    run.file("def test_fixtures(assert_no_regression):\n    assert assert_no_regression")
    site = run.path / "site"
    record = (
        site / "stands_in-1.dist-info"
    )  # what an installation with the entry point leaves, whatever this environment has
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: stands-in\nVersion: 1\n")
    (record / "entry_points.txt").write_text(f"[pytest11]\n{NAME} = {NAME}\n")
    if installed:
        monkeypatch.syspath_prepend(site)
    if named == "conftest.py":
        run.pytester.makeconftest(f"pytest_plugins = ['{NAME}']")
    result = run.pytester.runpytest_inprocess(*(("-p", NAME) if named == "-p" else ()))
    there = installed or named or importlib.metadata.entry_points(group="pytest11", name=NAME)
    result.assert_outcomes(**{"passed" if there else "errors": 1})
