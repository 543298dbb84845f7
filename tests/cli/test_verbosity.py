"""``-v``, ``-vv`` and ``-q`` on every verb, and progress without a terminal."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
import signal

import click
import pytest
import small
from click.testing import CliRunner

from edgekit import cli
from edgekit.cli import _stop
from edgekit.cli._output import bars, echo
from edgekit.cli._verbosity import StepLines, add_verbosity, without_notes

LOG = logging.getLogger("edgekit.search.race")
VERBS = sorted(m.name for m in pkgutil.iter_modules(cli.__path__) if not m.name.startswith("_"))


@pytest.fixture(autouse=True)
def uninterrupted():
    """No request to stop is left over from a test before."""
    _stop.requested.clear()


@pytest.fixture
def verb():
    """A verb that logs, draws progress, prints a note and its result."""

    @click.command()
    @click.option("--fail", is_flag=True)
    def command(fail):
        with bars() as progress:
            progress("load", 0, 0)
            progress("race", 1, 2)
            LOG.debug("a detail")
            LOG.info("a %s\nof two lines", "step")
            LOG.warning("a warning")
            progress("race", 2, 2)
            if fail:
                raise RuntimeError
        echo("note: something\n  that goes on\nresult")

    add_verbosity(command)
    add_verbosity(command)  # a second time changes nothing
    return command


def run(command, *arguments):
    return CliRunner().invoke(command, arguments)


def test_nothing_is_logged_by_default(verb):
    said = run(verb)
    assert said.stdout == "note: something\n  that goes on\nresult\n"
    assert re.sub(r"\d\.\d s", "N s", said.stderr) == "load: N s\nedgekit: warning: a warning\nrace: N s\n"


@pytest.mark.parametrize(
    ("flags", "details"), [(["-v"], False), (["-vv"], True), (["-v", "-v"], True), (["--verbose"], False)]
)
def test_verbose(verb, flags, details):
    said = run(verb, *flags)
    logged = re.findall(r"^\[ +\d+\.\d\d s\] (.*)$", said.stderr, re.M)
    step = r"info edgekit.search.race: a step\nof two lines"
    assert logged == [*(["debug edgekit.search.race: a detail"] if details else []), step], "one line a message"
    assert said.stdout.endswith("result\n")


def test_quiet(verb):
    said = run(verb, "-q")
    assert (said.stdout, said.stderr) == ("result\n", "")
    assert run(verb, "-q", "-vv").stderr == ""


def test_the_logger_is_as_before_afterwards(verb):
    before = (list(logging.getLogger("edgekit").handlers), logging.getLogger("edgekit").level)
    run(verb, "-vv")
    run(verb, "-vv", "--fail")
    assert (list(logging.getLogger("edgekit").handlers), logging.getLogger("edgekit").level) == before


def test_a_step_that_failed_is_not_reported_as_finished():
    @click.command()
    def command():
        with bars() as progress:
            progress("race", 1, 2)
            raise RuntimeError

    assert run(command).stderr == ""


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_both(name):
    command = importlib.import_module(f"edgekit.cli.{name}").command
    add_verbosity(command)
    options = [option for parameter in command.params for option in parameter.opts]
    for option in ("-v", "--verbose", "-q", "--quiet"):
        assert options.count(option) == 1


def test_without_notes():
    assert without_notes("a\nnote: b\n  c\nd\n  e\nnote: f") == "a\nd\n  e"
    assert without_notes('{"note": 1}') == '{"note": 1}'


# ---- steps


@pytest.fixture
def steps(monkeypatch, capsys):
    """Calls of a progress function to the printed lines; the clock goes on by one second a call."""
    clock = iter(range(1000))
    monkeypatch.setattr("edgekit.cli._verbosity.time.monotonic", lambda: float(next(clock)))

    def play(*calls):
        lines = StepLines()
        for call in calls:
            lines.advance(*call)
        lines.finish()
        return capsys.readouterr().err.splitlines()

    return play


def test_a_step_of_known_length_ends_with_its_last_unit(steps):
    assert steps(("a", 1, 2), ("a", 2, 2), ("b", 1, 1)) == ["a: 2.0 s", "b: 1.0 s"]


def test_a_step_of_unknown_length_ends_where_the_next_begins(steps):
    assert [line.split(":")[0] for line in steps(("a", 0, 0), ("a", 1, 0), ("b", 0, 0), ("c", 1, 1))] == ["a", "b", "c"]


def test_a_step_inside_another(steps):
    assert [line.split(":")[0] for line in steps(("out", 1, 2), ("in", 1, 1), ("out", 2, 2))] == ["in", "out"]


def test_a_step_that_ended_early(steps):
    assert [line.split(":")[0] for line in steps(("race", 3, 12), ("write", 0, 0))] == ["race", "write"]


def test_a_long_step_prints_a_line_after_a_tenth_but_not_within_ten_seconds(steps):
    lines = steps(*(("eval", done, 100) for done in range(1, 41)))
    assert lines == [
        "eval: 11 of 100, 1.1/s, 81 s left",
        "eval: 21 of 100, 1/s, 79 s left",
        "eval: 31 of 100, 1/s, 69 s left",
        "eval: 40.0 s",
    ]
    fast = steps(*(("eval", 300 * done, 2_000) for done in range(1, 7)))
    assert len(fast) == 1, "six seconds are too short for a line"


def test_a_very_long_step_prints_a_line_a_minute(steps):
    lines = steps(*(("eval", 20 * second, 100_000) for second in range(1, 70)), ("eval", 100_000, 100_000))
    assert lines == ["eval: 1,220 of 100,000, 20/s, 81 min left", "eval: 70.0 s"]


def test_a_long_step_of_unknown_length_has_no_time_left(steps):
    lines = steps(*(("predict", 5 * second, 0) for second in range(1, 70)))
    assert lines == ["predict: 305, 5.1/s", "predict: 69.0 s"]


def test_a_step_without_units_prints_only_its_end(steps):
    assert steps(*[("load", 0, 0)] * 200) == ["load: 200.0 s"]


# ---- in use


def test_a_bundle_is_opened_in_one_line(float32_ort):
    done = small.edgekit("run", float32_ort, "the film", "-v")
    assert done.returncode == 0
    logged = done.stderr.decode()
    assert re.search(r"^\[ +\d+\.\d\d s\] info edgekit\.runtime\.load: .*float32 on onnxruntime", logged, re.M)
    assert "film" not in logged


@pytest.mark.slow
def test_a_build_says_what_it_decided_and_no_text(tiny_model, tiny_samples, tmp_path, caplog):
    import edgekit

    target = small.target(tmp_path / "exact.toml")
    with caplog.at_level(logging.DEBUG, "edgekit"):
        edgekit.build(
            tiny_model, samples=tiny_samples.train, eval=tiny_samples.dev, out=tmp_path / "out", target=target
        )
    by_logger = {}
    for record in caplog.records:
        by_logger.setdefault(record.name, []).append(record.getMessage())
    assert any("decision: float32 on onnxruntime" in line for line in by_logger["edgekit.search.candidates"])
    assert any("step 'export'" in line for line in by_logger["edgekit.search.step_cache"])
    assert any("race of" in line for line in by_logger["edgekit.search.measure"])
    assert by_logger["edgekit.builder"][-1].startswith(f"wrote {tmp_path / 'out'}")
    assert all(name.startswith("edgekit.") for name in by_logger if "edgekit" in name)
    assert small.CANARY not in caplog.text


def test_a_program_without_logging_prints_nothing():
    code = "import edgekit, logging; logging.getLogger('edgekit.cache.store').warning('x')"
    done = small.python(code)
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_ends_one_verb_and_not_the_next_in_the_same_process():
    names = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
    before = {name: signal.getsignal(name) for name in names}
    _stop.requested.append(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        _stop.check()
    try:
        _stop.install()
        _stop.check()
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
