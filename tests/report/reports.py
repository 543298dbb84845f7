"""Reports of every kind, made by hand: what ``render`` must show, with hostile strings, nothing where nothing may be, and a great deal of everything.

They are plausible (scores, flips and confusions agree with each other) and always the same. No run of EdgeKit made them.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

from edgekit.spec.manifest import Trial
from edgekit.spec.report import (
    SCHEMA,
    Accuracy,
    Change,
    Drift,
    Faithfulness,
    Flip,
    Gate,
    Report,
    Robustness,
    Slice,
    Speed,
)
from edgekit.spec.subject import (
    ByLength,
    Fingerprint,
    Numbers,
    Perturbed,
    Predictions,
    Process,
    Scenario,
    Start,
    Subject,
    Times,
)

HOSTILE = "<script>alert(1)</script>"
CDATA = "]]>"
QUOTES = "\"'&amp;\u202e`${x}{{ 7*7 }}"
TEXT = f"a text that only include_text may show {HOSTILE} {CDATA}"
LONG = "a-bundle-whose-name-goes-on-and-on-because-someone-puts-the-whole-configuration-into-it-minilm-l6-sst2-int8-dynamic"
LABELS = ("negative", "neutral", "positive")
STRANGE = (HOSTILE, f"naïve & “quoted” 日本語 {CDATA}", "שלום")
MACHINE = Fingerprint(
    "0.1.0", "3.11.2", "Linux 6.1.0 x86_64", "AMD EPYC 9R14 96-Core Processor", 2, ("avx2", "avx512f", "vnni"), 7_680, "", "",
    {"onnxruntime": "1.22.0", "openvino": "2025.2.0"}, "", "", 2.0, 7_680, 3,
)  # fmt: skip
BOARD = replace(
    MACHINE,
    cpu="Cortex-A78AE",
    cpus=6,
    instructions=("asimd", "asimddp"),
    gpu="Orin (nvgpu) <b>",
    driver="36.4.0",
    governor="schedutil",
    power_mode="15W",
)
PLACES = ("p50", "p90", "p99")
ATTEMPT = (
    "static int8 on openvino: the linears ran in float32",
    "chosen",
    "accuracy drop 0.0310 above 0.01",
    "slower",
    "memory 312 MB above 300",
)


def _hex(text: str, length: int = 64) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def quantiles(p50: float, spread: float, seed: int = 0, count: int = 1_000) -> tuple[float, ...]:
    """The 0th to 100th percentile of log-normal times."""
    draw = random.Random(seed)
    seen = sorted(p50 * draw.lognormvariate(0, spread) for _ in range(count))
    return tuple(round(seen[round(i / 100 * (count - 1))], 4) for i in range(101))


def times(p50: float, count: int = 1_744, spread: float = 0.22, seed: int = 0) -> Times:
    """Times whose p99 needs 662 calls, and p90 64."""
    q = quantiles(p50, spread, seed)
    needed = {"p50": 11, "p90": 64, "p99": 662}
    found = {name: q[int(name[1:])] if count >= needed[name] else None for name in PLACES}
    lengths = tuple(
        ByLength(low, high, int(count * share), round(p50 * (0.55 + high / 60), 3))
        for low, high, share in ((3, 8, 0.12), (9, 16, 0.28), (17, 24, 0.25), (25, 32, 0.2), (33, 64, 0.15))
    )
    return Times(count, round(p50 * 1.08, 4), found["p50"], found["p90"], found["p99"], needed, q, lengths)


def processes(p50: float, blocks: int = 6, seed: int = 0) -> tuple[Process, ...]:
    """Two processes of blocks of four texts."""
    draw = random.Random(seed)
    return tuple(
        Process(
            Start(151.0 + i, 12.5, 88.25, p50, 252.0 + i),
            tuple(tuple(round(p50 * draw.lognormvariate(0, 0.2), 4) for _ in range(4)) for _ in range(blocks)),
            101.5 + i,
        )
        for i in range(2)
    )


def predictions(rows: int, labels: int, seed: int = 0) -> Predictions:
    """Of a head with one output a label."""
    draw = random.Random(seed)
    values = tuple(draw.randrange(-8000, 8000) / 1024 for _ in range(rows * labels))  # which float32 holds
    return Predictions(
        tuple(_hex(f"row {i}", 32) for i in range(rows)), {"logits": Numbers("float32", (rows, labels), values)}
    )


def identity(labels: tuple[str, ...], kind: str = "single_label_classification") -> dict[str, object]:
    """Of a classifier."""
    return {"problem_type": kind, "labels": list(labels)}


def confusion(labels: int, rows: int, wrong: float, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Rows by truth and answer."""
    draw = random.Random(seed)
    cells = [[0] * labels for _ in range(labels)]
    for _ in range(rows):
        truth = draw.randrange(labels)
        cells[truth][draw.randrange(labels) if draw.random() < wrong else truth] += 1
    return tuple(tuple(row) for row in cells)


def candidates(count: int) -> tuple[Trial, ...]:
    """Of a build: one was chosen, one was never timed."""
    draw = random.Random(count)
    made = []
    for i in range(count):
        method, backend = ("dynamic", "static", "none", "float16")[i % 4], ("onnxruntime", "openvino")[i // 4 % 2]
        p50, score = round(draw.uniform(1.2, 6.5), 2) if i != 3 else 0.0, round(0.8796 - draw.expovariate(180), 4)
        made.append(
            Trial(
                method, backend, "int8" if i % 4 < 2 else "float32", score, round(0.8796 - score, 4), i, p50, p50 * 1.3, 252.0, 101.0, 23.5,
                ATTEMPT[i % 5] if i % 5 != 1 or i == 1 else "slower", (16, 32, 64) if i % 3 == 0 else (), 2, model="3 layers" if i >= 8 else "",
                drop_low=0.8796 - score - 0.006, drop_high=0.8796 - score + 0.007,
            )
        )  # fmt: skip
    return tuple(made)


def subject(name: str, p50: float, *, labels: tuple[str, ...] = LABELS, rows: int = 872, seed: int = 0) -> Subject:
    """A bundle of which everything was measured."""
    cells = confusion(len(labels), rows, 0.18, seed)
    return Subject(
        name, f"sha256:{_hex(name)}", 3, "minilm-sst2@a1b2c3d", "text-classification", identity(labels), labels,
        target="cpu", backend="onnxruntime", method="dynamic", executed="int8", threads=2, score_name="accuracy",
        score=sum(cells[i][i] for i in range(len(labels))) / rows, truncated=2, calibration_error=0.0413, confusion=cells, size_mb=23.4,
        energy_mj=14.2, energy_from="RAPL package-0", times=times(p50, seed=seed), start=Start(151.2, 12.4, 88.3, p50, 253.1), memory_mb=101.4,
        processes=processes(p50, seed=seed),
        scenarios=(
            Scenario("SingleStream", "90th percentile, early-stopping estimate", round(p50 * 1.4, 3), "ms", 1_744, "One query after the other."),
            Scenario("Offline", "throughput", round(1_450 / p50, 1), "rows/s", 24_576, "All rows at once, in batches of 32."),
            Scenario("Server", "99th percentile, early-stopping estimate", None, "ms", 300, "Not estimable from 300 samples (needs 662)."),
        ),
        robustness=(
            Perturbed("typos", 200, 19, 0.885, 0.84, 0.045, 0.018, 0.074), Perturbed("case", 200, 0, 0.885, 0.885, 0.0, -0.0133, 0.0133),
            Perturbed("punctuation", 187, 4, 0.8877, 0.8824, 0.0053, -0.01, 0.0214), Perturbed("homoglyphs", 200, 61, 0.885, 0.69, 0.195, 0.147, 0.243),
            Perturbed("truncation", 142, 22, 0.8873, 0.8169, 0.0704, 0.028, 0.112),
        ),
        candidates=candidates(9), predictions=predictions(24, len(labels), seed),
    )  # fmt: skip


def flips(count: int, labels: tuple[str, ...] = LABELS, text: str = "") -> tuple[Flip, ...]:
    """Rows answered differently, the surest first."""
    draw = random.Random(count)
    sure = sorted((round(draw.betavariate(1, 4), 4) for _ in range(count)), reverse=True)
    made = []
    for i, margin in enumerate(sure):
        before, after = labels[i % 2], labels[1 - i % 2]
        truth = (before, after, labels[-1])[i % 3]
        made.append(
            Flip(_hex(f"row {i}", 32), 1 + 4 * i, truth, before, after, margin, round(draw.betavariate(1, 5), 4), text)
        )
    return tuple(made)


def changes(factor: float = 1.083) -> tuple[Change, ...]:
    """Of two bundles that ran in turns: p99 has no estimate, energy is not told."""
    return (
        Change("p50", 2.41, round(2.41 * factor, 3), "ms", factor, factor - 0.013, factor + 0.014, 0.021),
        Change("p90", 3.2, 3.39, "ms", 1.059, 1.01, 1.121, 0.064),
        Change("p99", None, None, "ms", None, None, None, None, "not estimable from 300 samples (needs 662)"),
        Change("first_answer", 253.1, 261.0, "ms", 1.031, 0.97, 1.1, 0.08),
        Change("memory", 101.4, 101.9, "MB", 1.005, 1.001, 1.009, 0.006),
        Change("size", 23.4, 21.1, "MB", 0.902, 0.902, 0.902),
        Change(
            "energy",
            None,
            None,
            "mJ",
            None,
            None,
            None,
            None,
            "the machine does not tell it: no RAPL, no Jetson sensor",
        ),
    )


def slices(count: int, rows: int = 872) -> tuple[Slice, ...]:
    """By length and by a column with hostile values; two that could not be tested."""
    draw = random.Random(count)
    made = []
    for i in range(count):
        topic = (HOSTILE, f"Müller & Söhne {CDATA}", LONG, "日本語")[i // 2 % 4] + f" {i}"
        column, value = ("length", f"{8 * i + 1}-{8 * i + 8}") if i % 2 else ("topic", topic)
        n = max(30, rows // (i + 2))
        before, drop = round(draw.uniform(0.8, 0.95), 4), round(draw.gauss(0.006, 0.012), 4)
        wide, p = 1.6 * (0.06 / n) ** 0.5, min(1.0, round(draw.random() * 1.2, 4))
        made.append(
            Slice(
                column,
                value,
                n,
                before,
                round(before - drop, 4),
                drop,
                round(drop - wide, 4),
                round(drop + wide, 4),
                p,
                min(1.0, round(p * 4, 4)),
            )
        )
    return (*made, Slice("topic", "only one", 1, said="1 row"), Slice("topic", "", 0, said="no row"))


def drifts(count: int, text: bool = False) -> tuple[Drift, ...]:
    """Explanations that differ, of 3 to 24 words."""
    draw = random.Random(count)
    made = []
    for i in range(count):
        n = 3 + 2 * i
        before = tuple(round(draw.gauss(0, 0.12), 4) for _ in range(n))
        after = tuple(round(b * 0.4 + draw.gauss(0, 0.1), 4) for b in before)
        words = (
            tuple((HOSTILE, "the", "película", "was", "extraordinarily", "日本語", CDATA)[w % 7] for w in range(n))
            if text
            else ()
        )
        made.append(
            Drift(_hex(f"drift {i}", 32), 11 * i + 2, LABELS[i % 3], words, before, after, round(-0.4 + 0.1 * i, 3))
        )
    return tuple(made)


def faithfulness(text: bool = False) -> Faithfulness:
    """Between ceiling and floor."""
    return Faithfulness(40, 812, 3, 0.871, 0.805, 0.912, 0.86, 0.011, 0.243, drifts(6, text))


def robustness() -> tuple[Robustness, ...]:
    """Paired, on the same disturbed texts."""
    return (
        Robustness("typos", 200, 0.85, 0.84, 0.01, -0.011, 0.033), Robustness("case", 200, 0.885, 0.885, 0.0, -0.0133, 0.0133),
        Robustness("punctuation", 187, 0.8877, 0.8824, 0.0053, -0.01, 0.0214), Robustness("homoglyphs", 200, 0.75, 0.69, 0.06, 0.029, 0.094),
        Robustness("truncation", 142, 0.8099, 0.8169, -0.007, -0.03, 0.018),
    )  # fmt: skip


def _report(kind: str, *subjects: Subject, **more: object) -> Report:
    fields: dict = {"fingerprint": MACHINE, **more}
    return Report(
        SCHEMA,
        kind,
        "2026-02-03T04:05:06Z",
        0,
        f"sha256:{_hex('samples')}",
        872,
        subjects=subjects,
        digest=_hex(kind),
        **fields,
    )


def single() -> Report:
    """One bundle, held to its budget: one limit is passed, one is kept. Its p99 and its energy are not known."""
    one = replace(
        subject(LONG, 2.41),
        times=times(2.41, count=300),
        energy_mj=None,
        energy_from="no RAPL domain may be read, and this is no Jetson",
    )
    return _report(
        "report", one, notes=("2 of 872 samples are longer than 128 tokens and were cut.", f"A note with {HOSTILE} & {CDATA}."),
        gates=(
            Gate("budget.p50_ms", "pass", 3.0, 2.41, None, None, "The p50 is 2.41 ms, within 3 ms."),
            Gate("budget.memory_mb", "over budget", 100.0, 101.4, None, None, "The peak memory is 101.4 MB, above 100 MB."),
        ),
    )  # fmt: skip


def comparison() -> Report:
    """Two bundles paired, nothing gated, labels that are hostile, no text."""
    before, after = subject("float32", 2.41, labels=STRANGE), subject("int8 & more <b>", 2.61, labels=STRANGE, seed=1)
    accuracy = Accuracy(
        872, "accuracy", before.score, after.score, before.score - after.score, -0.004, 0.016, 22, 15, 0.3239, 37, flips(37, STRANGE), 0.0121, 0.0488,
        0.0413, 0.0467, 0.0174, None, None, slices(6),
    )  # fmt: skip
    return _report(
        "compare", before, replace(after, memory_mb=101.9, size_mb=21.1), accuracy=accuracy, speed=Speed(True, changes(1.083), 2, 48, 1_744, 2, 21.3),
        faithfulness=faithfulness(), robustness=robustness(),
    )  # fmt: skip


def check() -> Report:
    """A check with every verdict, texts, and more flips than are listed."""
    before, after = subject("release-1.4", 2.41), subject("main", 2.61, seed=1)
    accuracy = Accuracy(
        872, "accuracy", 0.8796, 0.8716, 0.008, -0.0007, 0.0172, 210, 203, 0.7684, 413, flips(200, text=TEXT), 0.0121, 0.0488, 0.0413, 0.0467,
        0.0121, 0.005, 5_100, slices(8),
    )  # fmt: skip
    gates = (
        Gate(
            "accuracy.drop",
            "inconclusive",
            0.005,
            0.008,
            -0.0007,
            0.0172,
            "The drop of 0.0080 (-0.0007 to 0.0172) is not settled against 0.005.",
        ),
        Gate("latency.p50", "regression", 0.05, 0.083, 0.07, 0.097, "p50 grew by 8.3 % (7.0 % to 9.7 %), above 5 %."),
        Gate(
            "latency.p90",
            "inconclusive",
            0.10,
            0.059,
            0.01,
            0.121,
            "p90 grew by 5.9 % (1.0 % to 12.1 %): not settled against 10 %.",
        ),
        Gate(
            "latency.p99", "incomparable", 0.10, None, None, None, "p99 is not estimable from 300 samples (needs 662)."
        ),
        Gate(
            "footprint.first_answer",
            "pass",
            0.25,
            0.031,
            -0.03,
            0.1,
            "The first answer takes 3.1 % longer, within 25 %.",
        ),
        Gate("footprint.memory", "pass", 0.10, 0.005, 0.001, 0.009, "Memory grew by 0.5 %, within 10 %."),
        Gate("footprint.size", "pass", 0.10, -0.098, -0.098, -0.098, "The bundle is 9.8 % smaller."),
        Gate("budget.memory_mb", "over budget", 100.0, 101.9, None, None, "The peak memory is 101.9 MB, above 100 MB."),
        Gate(
            f"slice.topic={HOSTILE}",
            "pass",
            0.05,
            0.001,
            -0.02,
            0.02,
            f"Topic {HOSTILE} {CDATA} lost 0.001, within 0.05.",
        ),
    )
    return _report(
        "check", before, replace(after, memory_mb=101.9, size_mb=21.1), accuracy=accuracy,
        speed=Speed(True, changes(), 2, 48, 1_744, 3, 29.6, noise_floor={"p50": 0.011, "p90": 0.031}), faithfulness=faithfulness(True),
        robustness=robustness(), gates=gates, notes=("The machine was throttled 3 times during the run.",), include_text=True,
    )  # fmt: skip


def passing() -> Report:
    """A check that all gates pass, without a flip."""
    before, after = subject("release-1.4", 2.41), subject("main", 2.37)
    return _report(
        "check", before, after,
        accuracy=Accuracy(872, "accuracy", 0.8796, 0.8796, 0.0, -0.0031, 0.0031, 0, 0, 1.0, resolvable=0.003, margin=0.01, rows_needed=268),
        speed=Speed(True, changes(0.983)[:2], 2, 24, 872, 1, 12.0), gates=(
            Gate("accuracy.drop", "pass", 0.01, 0.0, -0.0031, 0.0031, "No row is answered differently."),
            Gate("latency.p50", "pass", 0.05, -0.017, -0.03, -0.003, "p50 fell by 1.7 %."),
        ),
    )  # fmt: skip


def teacher() -> Report:
    """A bundle against a teacher's predictions: nothing but answers is known of the one side; not one flip."""
    cells = confusion(3, 872, 0.18)
    known = Subject(
        "teacher", f"sha256:{_hex('teacher')}", 0, "minilm-sst2@a1b2c3d", "text-classification", identity(LABELS), LABELS,
        score_name="accuracy", score=sum(cells[i][i] for i in range(3)) / 872, calibration_error=0.04, confusion=cells,
    )  # fmt: skip
    return _report(
        "compare", known, subject("int8", 2.41),
        accuracy=Accuracy(
            872, "accuracy", known.score, known.score, 0.0, -0.0031, 0.0031, 0, 0, 1.0, divergence_mean=0.0004, divergence_p95=0.001, resolvable=0.003,
        ),
    )  # fmt: skip


def self_check() -> Report:
    """A against A: this machine's noise."""
    one = subject("main", 2.41)
    unknown = replace(
        one, candidates=(), robustness=(), scenarios=(), energy_mj=None, energy_from="the machine does not tell it"
    )
    speed = Speed(True, changes(1.002)[:4], 2, 48, 1_744, 1, 24.0, noise_floor={"p50": 0.011, "p90": 0.031})
    return _report("self-check", unknown, unknown, speed=speed)


def minimal() -> Report:
    """As little as a report can say."""
    one = Subject("", "", 3, "", "text-classification", identity(()))
    return Report(
        SCHEMA, "baseline", "2026-02-03T04:05:06Z", 0, "", 0, Fingerprint("0.1.0", "3.10.12", "Linux", "", 1), (one,)
    )


def multilabel() -> Report:
    """A head of which micro F1 is the score: no pairs of rows, no McNemar, no confusion; one candidate."""
    more = {
        "score_name": "micro F1",
        "score": 0.712,
        "confusion": (),
        "candidates": candidates(1),
        "identity": identity(LABELS, "multi_label_classification"),
    }
    before, after = replace(subject("release", 4.1), **more), replace(subject("candidate", 4.2), **more)
    differ = tuple(replace(f, truth="|".join(LABELS[:2]), before="|".join(LABELS), after="") for f in flips(12))
    untested = tuple(replace(s, p_value=None, p_holm=None) for s in slices(3))
    accuracy = Accuracy(
        500, "micro F1", 0.712, 0.709, 0.003, -0.006, 0.012, None, None, 0.41, 12, differ, 0.003, 0.02, 0.05, 0.05, 0.011, 0.01, 640, untested,
    )  # fmt: skip
    return _report("compare", before, after, accuracy=accuracy)


def regression() -> Report:
    """A number for an answer, and a baseline file of another machine: latency is incomparable."""
    why = "cpu: Cortex-A78AE, then AMD EPYC 9R14 96-Core Processor"
    more = {
        "labels": (),
        "score_name": "Pearson r",
        "score": 0.871,
        "confusion": (),
        "calibration_error": None,
        "predictions": predictions(24, 1),
    }
    more["identity"] = identity(("similarity",), "regression")
    before, after = replace(subject("release", 4.1), **more), replace(subject("candidate", 4.2), **more)
    apart = tuple(
        replace(f, truth="3.5", before="3.4812", after="2.9003", margin_before=None, margin_after=None)
        for f in flips(2)
    )
    accuracy = Accuracy(
        1_379,
        "Pearson r",
        0.871,
        0.869,
        0.002,
        -0.001,
        0.005,
        None,
        None,
        None,
        2,
        apart,
        resolvable=0.004,
        margin=0.01,
        rows_needed=310,
    )
    told = tuple(Change(c.metric, c.before, c.after, c.unit, None, None, None, None, why) for c in changes()[:3])
    gates = (
        Gate("accuracy.drop", "pass", 0.01, 0.002, -0.001, 0.005, "The drop of 0.0020 is within 0.01."),
        Gate(
            "latency.p50",
            "incomparable",
            0.05,
            None,
            None,
            None,
            f"The baseline was measured on another machine: {why}.",
        ),
    )
    return _report(
        "check",
        before,
        after,
        fingerprint=BOARD,
        accuracy=accuracy,
        speed=Speed(False, told, 0, 0, 0, 0, 0.0, False, why),
        gates=gates,
    )


def speech() -> Report:
    """Transcripts, of which fewer wrong words are better: no labels, no probabilities, no explanations, and answers that would quote the samples."""
    more = {
        "task": "speech-recognition", "identity": {"languages": ["de", "en"]}, "labels": (), "score_name": "WER", "higher_is_better": False, "confusion": (),
        "calibration_error": None, "predictions": None, "robustness": (), "more_scores": {"sentence errors": 0.31},
        "candidates": tuple(replace(c, score=round(0.08 + c.drop, 4)) for c in candidates(9)),
    }  # fmt: skip
    before, after = (
        replace(subject("release", 41.0), score=0.08, **more),
        replace(subject("candidate", 39.0, seed=1), score=0.1, **more),
    )
    apart = tuple(replace(f, truth="", before="", after="", margin_before=None, margin_after=None) for f in flips(3))
    accuracy = Accuracy(
        300, "WER", 0.08, 0.1, 0.02, 0.012, 0.029, None, None, 0.0005, 3, apart, 0.07, 0.3, resolvable=0.009, margin=0.01, rows_needed=280,
        slices=(Slice("length", "65-128", 120, 0.07, 0.1, 0.03, 0.01, 0.05, 0.004, 0.004),), higher_is_better=False,
    )  # fmt: skip
    gates = (
        Gate(
            "accuracy.drop",
            "regression",
            0.01,
            0.02,
            0.012,
            0.029,
            "WER 0.0800 to 0.1000, a drop of 0.0200: more than the 0.01 that is allowed.",
        ),
    )
    return _report("check", before, after, accuracy=accuracy, gates=gates)


def largest() -> Report:
    """More than a page can list: 50 labels, 60 candidates, 52 slices, 200 flips with long texts and names."""
    labels = tuple(f"label {i} {'of a long name ' * 3}{HOSTILE}" for i in range(50))
    before, after = (
        subject("before " * 20, 2.41, labels=labels, rows=5_000),
        subject("after " * 20, 2.61, labels=labels, rows=5_000, seed=1),
    )
    base, text = check(), (TEXT + " ") * 12
    accuracy = replace(base.accuracy, flipped=flips(200, labels, text), slices=slices(50, 5_000))
    gates = (*base.gates, *(replace(base.gates[-1], name=f"slice.{s.column}={s.value}") for s in accuracy.slices))
    both = (replace(before, candidates=candidates(60)), replace(after, candidates=candidates(60)))
    return replace(
        base,
        subjects=both,
        accuracy=accuracy,
        gates=gates,
        notes=("A note that says a good deal, as notes do. " * 5,) * 30,
    )


def everything() -> dict[str, Report]:
    """All of them by name."""
    makers = (single, comparison, check, passing, teacher, self_check, minimal, multilabel, regression, speech, largest)
    return {make.__name__: make() for make in makers}
