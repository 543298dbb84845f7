"""``gates.toml``: default gates, gates that are off, invalid values."""

from __future__ import annotations

import pytest
from refusals import refused

from edgekit.spec import gates
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.target import Budget

pytestmark = pytest.mark.device


def test_the_defaults():
    """The defaults are +5 % of the median, +10 % of the tail and one point of accuracy. Rare measurements are off."""
    assert gates.parse_gates({}, "x") == Gates()
    assert vars(Gates().latency) == {"p50": 0.05, "p90": 0.10, "p99": None}
    assert vars(Gates().accuracy) == {
        "drop": 0.01,
        "flips": None,
        "calibration_error": None,
        "slice_drop": None,
        "error": 0.02,
        "recall_drop": 0.05,
    }
    assert vars(Gates().footprint) == {"first_answer": 0.25, "memory": 0.10, "size": 0.10, "energy": None}
    assert set(vars(Gates().budget).values()) == {None}


def test_a_file(tmp_path):
    file = tmp_path / "gates.toml"
    file.write_text(
        '[latency]\np50 = "off"\np90 = 0\n[accuracy]\nslice_drop = 0.03\n'
        '[footprint]\nenergy = 1\n[budget]\np50_ms = 5\nsize_mb = "off"\n',
        "utf-8",
    )
    assert gates.read(file) == gates.read(str(file))
    assert gates.read(file) == Gates(
        LatencyGates(p50=None, p90=0.0),
        AccuracyGates(slice_drop=0.03),
        FootprintGates(energy=1.0),
        Budget(p50_ms=5.0, size_mb=None),
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[latncy]\np50 = 1", ("key-unknown", "'latncy'", "gates.toml", "'latency'")),
        ("[latency]\np95 = 1", ("key-unknown", "'p95'", "gates.toml: latency", "'p9")),
        ("[accuracy]\ndrops = 0.1", ("key-unknown", "'drop'")),
        ("[latency]\np50 = -0.01", ("gates-value", "latency: p50", "-0.01", "0", "10", '"off"')),
        ("[latency]\np90 = 10", ("gates-value", "latency: p90", "0.05", "1000%")),
        ("[accuracy]\nflips = 1", ("gates-value", "accuracy: flips")),
        ("[accuracy]\ndrop = 1.5", ("gates-value", "accuracy: drop", "1.5")),
        ("[budget]\nmemory_mb = -1", ("budget-value", "budget: memory_mb", "-1")),
        ("[latency]\np50 = inf", ("value-not-finite", "inf")),
        ("[latency]\np50 = nan", ("value-not-finite", "nan")),
        ("[latency]\np50 = true", ("value-type", "float")),
        ("[latency]\np50 = '5 %'", ("value-type", "float")),
        ("[latency]\np50 = 'OFF'", ("value-type", "float")),
        ("latency = 0.05", ("value-type", "latency", "float")),
        ("latency = 'off'", ("value-type", "latency", "str")),
        ("[latency", ("toml-invalid",)),
    ],
)
def test_invalid_gates(tmp_path, text, error):
    file = tmp_path / "gates.toml"
    file.write_text(text, "utf-8")
    with refused(error):
        gates.read(file)


def test_a_missing_file(tmp_path):
    with refused("gates-not-found"):
        gates.read(tmp_path / "gates.toml")
    with refused("gates-not-found"):
        gates.read(tmp_path)
