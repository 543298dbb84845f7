"""Pruning by the clock of a real backend: the verb, and pruned models in a build."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import small
from refusals import refused

import edgekit
from edgekit.compress._layers import keep_layers
from edgekit.compress.recipe import parse_recipe
from edgekit.search.pruning import prune
from edgekit.source import read
from edgekit.source.stack import KEPT_SIZES, widths
from edgekit.spec.options import PruneOptions

NEURONS = 8192  # so many that they take nearly all of the time: they can go, and the clock must see it


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model of one layer with far too many neurons, and samples for it."""
    folder = tmp_path_factory.mktemp("wide")
    module = keep_layers(small.module(neurons=NEURONS), (0,)).eval()
    module.save_pretrained(folder / "model")
    small.tokenizer().save_pretrained(folder / "model")
    train = small.write_jsonl(
        folder / "train.jsonl", [{"text": f"{t} {small.CANARY}"} for t in small.texts(60, seed=41)]
    )
    dev = small.write_jsonl(folder / "dev.jsonl", small.labelled(module, small.texts(200, seed=43), count=60, wrong=3))
    target = small.target(folder / "t.toml", ("dynamic",), extra="threads = 1")
    return SimpleNamespace(model=folder / "model", train=train, dev=dev, target=target)


@pytest.mark.slow
@pytest.mark.train
def test_the_verb_and_a_build(wide, tmp_path, monkeypatch):
    """By the command line, and as a student that competes with the model."""
    check_verb(wide, tmp_path / "verb")
    with refused("output-exists"):
        prune(
            wide.model,
            speedup=1.5,
            samples=wide.train,
            eval=wide.dev,
            out=tmp_path / "verb",
            options=PruneOptions(target=wide.target),
        )
    said = {"speedup": 1.5, "epochs": 1, "copies": 0, "precision": "float32"}

    def build(out, recipe=said, **options):
        return small.build(
            wide.model,
            samples=wide.train,
            eval=wide.dev,
            out=tmp_path / out,
            target=wide.target,
            distill=[recipe],
            budget={"accuracy_drop": 1.0},
            **options,
        )

    made = build("out")
    sizes = {t.model: t.size_mb for t in made.bundle.manifest.trials}
    assert set(sizes) == {"", "pruned 1.5 x"}
    assert sizes["pruned 1.5 x"] < sizes[""]
    with edgekit.load(made.bundle.path) as session:
        assert np.isfinite(small.logits(session, ["a fine film", "it was dull"])).all()
    # On record is how it was pruned too: with another cache the same model comes out, and no clock is asked.
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "empty"))
    again = build("again", race=tmp_path / "out" / "race.json")
    assert again.bundle.manifest.trials == made.bundle.manifest.trials
    with refused("race-record-other"):
        build("other", {**said, "speedup": 1.4}, race=tmp_path / "out" / "race.json")


@pytest.mark.slow
def test_more_than_can_be_had(wide, tmp_path):
    with refused("prune-speedup", "90.00"):
        prune(
            wide.model,
            speedup=90,
            samples=wide.train,
            eval=wide.dev,
            out=tmp_path / "out",
            options=PruneOptions(target=wide.target),
        )
    assert not (tmp_path / "out").exists()


def check_verb(wide, out):
    """Prune by the command line, without a training."""
    options = ["--speedup", "1.5", "--target", wide.target, "--samples", wide.train, "--eval", wide.dev, "-o", out]
    done = small.edgekit("prune", wide.model, *options, "--no-recover", timeout=600)
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == ["layer", "heads", "neurons"]
    ((heads, neurons),) = widths(read(out).module)
    assert lines[1].split()[4:] == [str(NEURONS), "->", str(neurons)]
    assert neurons < 0.8 * NEURONS, "a third of the time is more than a fifth of the neurons"
    assert neurons % 64 == 0 and heads >= 1
    assert float(lines[2].split()[0]) >= 1.3
    assert lines[3].startswith("Student: accuracy 0.")
    assert lines[-1] == f"Wrote {out}."
    assert small.CANARY not in done.stdout.decode() + done.stderr.decode()
    assert not any(small.CANARY.encode() in f.read_bytes() for f in out.iterdir())


def test_another_device_has_no_clock_here(wide, tmp_path):
    target = small.target(tmp_path / "far.toml", ("dynamic",), extra='choose_on = "device"')
    with refused("prune-other-machine", "far"):
        prune(
            wide.model,
            speedup=1.5,
            samples=wide.train,
            eval=wide.dev,
            out=tmp_path / "out",
            options=PruneOptions(target=target),
        )
    with refused("prune-other-machine", "far"):
        small.build(
            wide.model,
            samples=wide.train,
            eval=wide.dev,
            out=tmp_path / "out",
            target=target,
            distill=[{"layers": 1, "speedup": 1.5}],
        )


def test_a_speedup_that_is_none_is_refused_before_anything_is_loaded(tmp_path):
    with refused("prune-speedup", "1", "100"):
        prune(tmp_path / "none", speedup=0.9, samples=tmp_path / "none", eval=tmp_path / "none", out=tmp_path / "out")
    with refused("prune-speedup", "1", "100"):
        parse_recipe({"layers": 3, "speedup": 1.0})


def test_a_folder_without_the_widths_is_not_one_of_these(wide):
    assert not hasattr(read(wide.model).module.config, KEPT_SIZES)
