"""A race on record: what is written is read, and another build's is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from edgekit.bundle.trust import Bundle
from edgekit.search.record import Candidate, CandidateResult, Costs, Race, Record, key, read
from edgekit.spec.errors import UsageError
from edgekit.spec.manifest import FileEntry, Manifest, Variant

VARIANT = Variant("openvino", "static", {"forward": "graphs/model.onnx"}, "cpu", 2, "int8", shapes=(16, 32), batch=8)
FILES = {
    "graphs/model.onnx": FileEntry("a" * 64, 3),
    "graphs/weights/b": FileEntry("b" * 64, 3),
    "assets/task.json": FileEntry("c" * 64, 3),
}


def candidate(variant=VARIANT, files=FILES, place="somewhere"):
    return Candidate(
        Bundle(Path(place), Manifest(1, "t", "single", 32, (), (variant,), files, "t", "", "accuracy", 0.9, ())),
        variant,
    )


def answers(first=300.5, memory=90.25, executed="int8 8/10 linears"):
    return CandidateResult([{"scores": np.ones(3, np.float32)}] * 2, Costs(first, memory, executed))


ONE, TWO = candidate(), candidate(replace(VARIANT, threads=1))
RACE = Race((((1.25, 2.0), (0.1, 3.0)), ((1.5, 2.5), (0.2, 1e-3))), ((100.0, 101.5), (90.0, 80.0)))


def recorded():
    made = Record("a CPU")
    made.add_costs(ONE, answers())
    made.add_costs(TWO, answers(1.0, 2.0, "float32"))
    made.add_race([ONE, TWO], RACE)
    made.add_race([ONE], Race((((1.0,),),)))
    return made


def test_written_and_read_is_the_same(tmp_path):
    (tmp_path / "race.json").write_text(recorded().text(), "utf-8")
    found = read(tmp_path / "race.json")
    assert found == recorded()
    assert found.text() == recorded().text()
    assert found.race([ONE, TWO]) == RACE
    assert found.race([ONE]) == Race((((1.0,),),), ())
    assert found.costs[key(TWO)] == Costs(1.0, 2.0, "float32")


_ms = st.floats(1e-6, 1e9)


@given(st.lists(st.lists(_ms, min_size=1, max_size=3), min_size=1, max_size=3), _ms, _ms)
def test_no_digit_of_a_time_is_lost(tmp_path_factory, times, first, memory):
    """A choice that hung on the last digit is the same again."""
    made, race = Record("a CPU"), Race((tuple(map(tuple, times)),), (tuple(times[0]),))
    made.add_race([ONE], race)
    made.add_costs(ONE, answers(first, memory))
    file = tmp_path_factory.getbasetemp() / "a-race.json"
    file.write_text(made.text(), "utf-8")
    assert read(file).race([ONE]) == race
    found = read(file).with_costs(ONE, answers(0, 0)).costs
    assert (found.first_answer_ms, found.memory_mb) == (first, memory)


def test_costs_come_from_the_record_and_outputs_from_now():
    now = replace(answers(9.0, 9.0, "float32"), outputs=[{"scores": np.full(3, 7, np.float32)}])
    found = recorded().with_costs(ONE, now)
    assert found.costs == Costs(300.5, 90.25, "int8 8/10 linears")
    assert found.outputs is now.outputs


def test_the_first_costs_count():
    """The winner answers the test set too, in another process with another peak; it was chosen by what it took before."""
    made = recorded()
    made.add_costs(ONE, answers(1.0, 1.0))
    assert made.costs[key(ONE)] == Costs(300.5, 90.25, "int8 8/10 linears")


def test_another_build_is_refused():
    other = candidate(replace(VARIANT, backend="onnxruntime", shapes=()))
    with refused("race-record-other", "static on onnxruntime, 2 thread(s), rows alone"):
        recorded().with_costs(other, answers())
    for candidates in ([other], [ONE, TWO, other], [TWO, ONE], [TWO], []):
        with refused("race-record-other", f"{len(candidates)}", "--race"):
            recorded().race(candidates)


CHANGES = [
    {"method": "dynamic"},
    {"backend": "onnxruntime"},
    {"shapes": (16, 33)},
    {"shapes": ()},
    {"threads": 1},
    {"streams": 2},
    {"batch": 4},
    {"rows": "together"},
    {"max_tokens": 512},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_candidate_is_known_by_how_it_is_run(change):
    assert key(candidate(replace(VARIANT, **change))) != key(ONE)
    with refused("race-record-other"):
        recorded().race([candidate(replace(VARIANT, **change)), TWO])


@pytest.mark.parametrize("name", ["graphs/model.onnx", "graphs/weights/b"])
def test_a_candidate_is_known_by_the_bytes_of_its_graphs(name):
    other = {**FILES, name: FileEntry("d" * 64, 3)}
    assert key(candidate(files=other)) != key(ONE)
    assert key(candidate(files={n: f for n, f in FILES.items() if n != name})) != key(ONE)


def test_a_candidate_is_the_same_in_another_place():
    """Scratch folders have another name in every build, and what was measured is not what the graphs are."""
    elsewhere = candidate(replace(VARIANT, executed="not measured"), dict(reversed(FILES.items())), "elsewhere")
    assert key(elsewhere) == key(ONE)
    assert recorded().race([elsewhere, TWO]) == RACE


GOOD = json.loads(recorded().text())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "expected a table"),
        ("{}", "no key 'machine'"),
        (json.dumps({**GOOD, "race": {}}), "Did you mean 'races'"),
        (json.dumps({**GOOD, "machine": 3}), "machine is 3"),
        (json.dumps({**GOOD, "costs": {"a": {"first_answer_ms": 1, "memory_mb": 2}}}), "no key 'executed'"),
        (
            json.dumps({**GOOD, "costs": {"a": {"first_answer_ms": 1, "memory_mb": float("nan"), "executed": ""}}}),
            "memory_mb is nan",
        ),
        (json.dumps({**GOOD, "races": {"a": {"times_ms": [1, 2]}}}), "expected a list"),
        (json.dumps({**GOOD, "races": {"a": {"times_ms": [[["1"]]]}}}), "expected a value of type float"),
    ],
    ids=lambda v: str(v)[:12],
)
def test_what_is_no_record(tmp_path, text, said):
    file = tmp_path / "race.json"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=said) as caught:
        read(file)
    assert "race.json" in str(caught.value)


def test_a_folder_is_no_record(tmp_path):
    with refused("race-record-unreadable", "race.json"):
        read(tmp_path)
