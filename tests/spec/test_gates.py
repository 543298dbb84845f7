"""``gates.toml``: what is gated by default, what turns a gate off, what is refused."""

from __future__ import annotations

import pytest
from refusals import refused

from edgekit.spec import gates
from edgekit.spec.errors import UsageError
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.target import Budget


def test_the_defaults():
    """+5 % of the median, +10 % of the tail, one point of accuracy; what few machines tell, and what few ask for, is not gated."""
    assert gates.of({}, "x") == Gates()
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
        '[latency]\np50 = "off"\np90 = 0\n[accuracy]\nslice_drop = 0.03\n[footprint]\nenergy = 1\n[budget]\np50_ms = 5\nsize_mb = "off"\n',
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
    ("text", "said"),
    [
        ("[latncy]\np50 = 1", r"Unknown key 'latncy' in gates gates\.toml\. Did you mean 'latency'"),
        ("[latency]\np95 = 1", r"Unknown key 'p95' in gates gates\.toml: latency\. Did you mean 'p9"),
        ("[accuracy]\ndrops = 0.1", "Did you mean 'drop'"),
        ("[latency]\np50 = -0.01", r'latency: p50 is -0\.01, expected a number from 0 to below 10, or "off"'),
        ("[latency]\np90 = 10", r"latency: p90 is 10, .* Write 0\.05 for 5 %: 10 is 1000%"),
        ("[accuracy]\nflips = 1", "accuracy: flips is 1"),
        ("[accuracy]\ndrop = 1.5", "accuracy: drop is 1.5"),
        ("[budget]\nmemory_mb = -1", "budget: memory_mb is -1"),
        ("[latency]\np50 = inf", "expected a finite number"),
        ("[latency]\np50 = nan", "expected a finite number"),
        ("[latency]\np50 = true", "expected a value of type float"),
        ("[latency]\np50 = '5 %'", "expected a value of type float"),
        ("[latency]\np50 = 'OFF'", "expected a value of type float"),
        ("latency = 0.05", "latency is a float, expected a table"),
        ("latency = 'off'", "latency is a str, expected a table"),
        ("[latency", "not valid TOML"),
    ],
)
def test_what_is_refused(tmp_path, text, said):
    file = tmp_path / "gates.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=said):
        gates.read(file)


def test_a_file_that_is_none(tmp_path):
    with refused("gates-not-found"):
        gates.read(tmp_path / "gates.toml")
    with refused("gates-not-found"):
        gates.read(tmp_path)
