"""What EdgeKit's code uses of TensorRT exists in every version that it supports, with as many arguments as it gives.

Without a GPU most of that code never runs against the real library, so a name that is misspelled or gone would be found on a device.
Names come from the lists beside the checkout, and from NVIDIA's own bindings where they are installed.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter

import pytest
import small
import tensorrt_bindings as bindings
from tensorrt_uses import Use, collect

BACKENDS = small.ROOT / "edgekit" / "backends"
SOURCES = {
    str(f.relative_to(small.ROOT)): f.read_text()
    for pattern in ("_trt*.py", "tensorrt*.py")
    for f in sorted(BACKENDS.glob(pattern))
}
VERSIONS = tuple(bindings.VERSIONS)
VIRTUAL = {"ILogger": {"log"}, "IProgressMonitor": {"phase_start", "step_complete", "phase_finish"}}


def lists():
    """From the lists: names of each version, and signatures of the last."""
    known = {
        version: {owner: dict.fromkeys(names) for owner, names in bindings.listed(version).items()}
        for version in VERSIONS
    }
    for owner, names in bindings.signatures().items():
        known["11.4.0"].setdefault(owner, {}).update(names)
    return known


def wheels():
    """From the bindings: all of each version, and of TensorRT-RTX where it is installed."""
    known = {version: bindings.dump(version)["names"] for version in VERSIONS}
    with contextlib.suppress(bindings.Absent):
        known[bindings.RTX] = bindings.dump(bindings.RTX)["names"]
    return known


@pytest.fixture(scope="module", params=[lists, wheels], ids=["the lists", "the bindings"])
def known(request):
    try:
        return request.param()
    except bindings.Absent as reason:
        pytest.skip(str(reason))


def returns(known):
    """Class that a method returns, as the last version tells."""
    found = {}
    for owner, names in known["11.4.0"].items():
        for name, entry in names.items() if isinstance(names, dict) else ():
            if isinstance(entry, list) and entry and (kind := entry[0].rpartition(" -> ")[2]) in known["11.4.0"]:
                found[owner, name] = kind
    return found


def wrong(use, entry):
    """What is wrong with a use, for one version's entry of that name; None for nothing."""
    if use.kind == "set" and entry == "read-only property":
        return "cannot be set"
    if use.kind == "call" and isinstance(entry, str) and entry.endswith("property"):
        return "is a property and cannot be called"
    if use.kind == "call" and isinstance(entry, dict):
        entry = entry.get("__init__")
    if use.kind not in ("call", "override") or use.arguments is None or not isinstance(entry, list):
        return None
    for signature in entry:
        inside = re.sub(r"<[^<>]*>", "default", signature.partition("(")[2].rpartition(") ->")[0])
        parameters = [part.partition(":")[0] for part in re.split(r", (?=\w+:)", inside)][1:]
        required = [
            name
            for name, part in zip(parameters, re.split(r", (?=\w+:)", inside)[1:], strict=True)
            if " = " not in part
        ]
        named = set(use.keywords)
        left = set(required) - set(parameters[: use.arguments]) - named
        if use.arguments <= len(parameters) and not left and named <= set(parameters[use.arguments :]):
            return None
    given = ", ".join([f"{use.arguments} argument(s)", *use.keywords])
    return f"takes none of {given}: it has {' or '.join(entry)}" if entry else None


def complaints(uses, known):
    """A line for each use that some version does not have, or not so."""
    found = []
    for use in uses:
        if use.kind == "base":
            continue
        versions = [v for v in known if ("rtx" if v == bindings.RTX else "tensorrt") in use.worlds]
        entries = {}
        for version in versions:
            names = known[version] if not use.owner else known[version].get(use.owner, {})
            if use.kind == "override" and use.name not in names:
                continue  # a method of its own
            if use.name in names or use.kind == "override":
                entries[version] = names[use.name]
        missing = [version for version in versions if version not in entries]
        if use.kind != "override" and missing and not (use.optional and entries):
            found.append(f"{use} does not exist in TensorRT {', '.join(missing)}.")
        for version, entry in entries.items():
            if problem := wrong(use, entry):
                found.append(f"{use} {problem} in TensorRT {version}.")
    for (file, owner), methods in overridden(uses).items():
        if lacking := sorted(VIRTUAL.get(owner, set()) - methods):
            found.append(f"{file}: a subclass of {owner} does not override {', '.join(lacking)}, which TensorRT calls.")
        if "__init__" not in methods:
            found.append(f"{file}: a subclass of {owner} does not call {owner}.__init__, so TensorRT refuses it.")
    return found


def overridden(uses):
    """Methods of each subclass, by file and base class."""
    found = {}
    for use in uses:
        if use.kind in ("override", "base"):
            found.setdefault((use.file, use.owner), set()).add(use.name)
    return found


def test_what_edgekit_uses_exists(known):
    if not SOURCES:
        pytest.skip("there is no TensorRT backend yet")
    found = complaints(collect(SOURCES, returns(known)), known)
    assert not found, "\n" + "\n".join(found)


def test_the_uses_are_seen(known):
    """The check above would pass with nothing to check."""
    if not SOURCES:
        pytest.skip("there is no TensorRT backend yet")
    uses = collect(SOURCES, returns(known))
    count = Counter(use.owner for use in uses)
    for owner in (
        "",
        "Builder",
        "IBuilderConfig",
        "OnnxParser",
        "IOptimizationProfile",
        "Runtime",
        "ICudaEngine",
        "IExecutionContext",
        "EngineInspector",
    ):
        assert count[owner], f"no use of {owner or 'the module'} was found"
    assert {"execute_async_v3", "set_input_shape", "set_tensor_address"} <= {
        use.name for use in uses if use.owner == "IExecutionContext"
    }
    assert any(use.owner == "ITimingCache" for use in uses)
    assert {use.owner for use in uses if use.kind == "override"} >= {"ILogger", "IProgressMonitor"}


def complain(known, source, file="edgekit/backends/_trt_x.py"):
    return complaints(collect({file: source}, returns(known)), known)


GOOD = """
def build(trt, log, path, rows, target: Target):
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, log).parse_from_file(str(path)):
        return None
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, pool_size=1 << 20)
    config.progress_monitor = None
    made = trt.Runtime(log).deserialize_cuda_engine(builder.build_serialized_network(network, config))
    first = made.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    first.set_input_shape("ids", (1, 2))
    bytes(config.get_timing_cache().serialize())
    for engine in rows:
        engine.close()  # not TensorRT's
    target.engine.profiles
    return made.num_io_tensors


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.lines = []

    def log(self, severity, text):
        self.lines.append(text)

    def errors(self):
        return self.lines
"""


def test_no_complaint_without_cause(known):
    assert complain(known, GOOD) == []


@pytest.mark.parametrize(
    ("right", "instead", "told"),
    [
        ("trt.Builder(log)", "trt.Bilder(log)", "trt.Bilder does not exist in TensorRT 10.3.0, 10.16.1, 11.4.0"),
        (
            "STRONGLY_TYPED",
            "EXPLICIT_BATCH",
            "NetworkDefinitionCreationFlag.EXPLICIT_BATCH does not exist in TensorRT 11.4.0",
        ),
        (
            "set_memory_pool_limit",
            "max_workspace_size",
            "IBuilderConfig.max_workspace_size does not exist in TensorRT 10.3.0, 10.16.1, 11.4.0",
        ),
        (
            "made.num_io_tensors",
            "made.device_memory_size",
            "ICudaEngine.device_memory_size does not exist in TensorRT 11.4.0",
        ),
        (
            "made.num_io_tensors",
            "made.num_io_tensors()",
            "ICudaEngine.num_io_tensors is a property and cannot be called",
        ),
        (
            "config.progress_monitor",
            "config.max_num_tactics",
            "IBuilderConfig.max_num_tactics does not exist in TensorRT 10.3.0",
        ),
        (".parse_from_file(str(path))", ".parse_file(str(path))", "OnnxParser.parse_file does not exist"),
        ('("ids", (1, 2))', '("ids")', "IExecutionContext.set_input_shape takes none of 1 argument(s)"),
        ('("ids", (1, 2))', '("ids", 1, 2)', "IExecutionContext.set_input_shape takes none of 3 argument(s)"),
        ("pool_size=1", "size=1", "IBuilderConfig.set_memory_pool_limit takes none of 1 argument(s), size"),
        ("trt.Runtime(log)", "trt.Runtime()", "trt.Runtime takes none of 0 argument(s)"),
        (".serialize()", ".dump()", "ITimingCache.dump does not exist"),
        (
            "first.set_input_shape",
            "self._context.set_binding_shape",
            "IExecutionContext.set_binding_shape does not exist",
        ),
        ("self, severity, text", "self, text", "ILogger.log takes none of 1 argument(s)"),
        ("def log(", "def logs(", "a subclass of ILogger does not override log"),
        ("trt.ILogger.__init__(self)", "pass", "a subclass of ILogger does not call ILogger.__init__"),
    ],
)
def test_a_complaint_for_each_fault(known, right, instead, told):
    assert right in GOOD
    found = complain(known, GOOD.replace(right, instead))
    assert any(told in line for line in found), found
    assert all(line.startswith("edgekit/backends/_trt_x.py") for line in found)
    line = (
        GOOD.replace(right, instead)
        .splitlines()
        .index(next(text for text in GOOD.replace(right, instead).splitlines() if instead in text))
        + 1
    )
    assert "subclass" in told or any(f"_trt_x.py:{line}:" in text for text in found)


def test_read_only_properties_are_not_set():
    try:
        known = wheels()
    except bindings.Absent as reason:
        pytest.skip(str(reason))
    assert (
        "cannot be set"
        in complain(known, GOOD.replace("config.progress_monitor", "config.num_optimization_profiles"))[0]
    )


def test_optional_names_must_exist_somewhere(known):
    assert complain(known, "def f(config):\n    getattr(config, 'max_num_tactics', None)\n") == []
    assert (
        complain(known, "def f(config):\n    if hasattr(config, 'int8_calibrator'):\n        config.int8_calibrator\n")
        == []
    )
    assert complain(known, "def f(config):\n    config.int8_calibrator\n") != []
    for name in ("max_tactics", "device_memory_size"):
        assert f"{name} does not exist" in complain(known, f"def f(config):\n    getattr(config, '{name}', None)\n")[0]
        assert (
            f"{name} does not exist"
            in complain(known, f"def f(config):\n    if hasattr(config, '{name}'):\n        config.{name}\n")[0]
        )


RTX_ONLY = """
def build(trt, config):
    {guard}
        chips(trt, config)


def chips(trt, config):
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
"""


@pytest.mark.parametrize(
    "guard", ["if is_rtx(trt):", "if is_rtx(trt) and chips:", "if not is_rtx(trt):\n        return\n    if chips:"]
)
def test_what_is_for_rtx_alone_need_not_be_in_tensorrt(known, guard):
    assert complain(known, RTX_ONLY.format(guard=guard)) == []
    assert (
        complain(known, RTX_ONLY.partition("def chips")[2].join(["def chips", ""]), "edgekit/backends/tensorrt_rtx.py")
        == []
    )


@pytest.mark.parametrize("guard", ["if chips:", "if not is_rtx(trt):", "if is_rtx(trt) or chips:"])
def test_what_is_not_for_rtx_alone_must_be_in_tensorrt(known, guard):
    assert len(complain(known, RTX_ONLY.format(guard=guard))) == 4


def test_a_use_tells_where_it_is():
    assert (
        str(Use("a.py", 3, "Builder", "reset", "read")) == "a.py:3: Builder.reset"
        and str(Use("a.py", 3, "", "Builder", "read")) == "a.py:3: trt.Builder"
    )


# ---- the bindings themselves


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_agree_with_the_lists(version):
    try:
        real, listed, signatures = bindings.dump(version), bindings.listed(version), bindings.signatures()
    except bindings.Absent as reason:
        pytest.skip(str(reason))
    assert real["version"].startswith(version)
    assert {
        name: {n for n in names if not n.startswith("_")} for name, names in real["names"].items() if name in listed
    } == listed
    if version == "11.4.0":
        told = {
            (owner, name): entry
            for owner, names in signatures.items()
            for name, entry in names.items()
            if isinstance(entry, list) and entry
        }
        assert len(told) > 700
        assert {key: real["names"][key[0]][key[1]] for key in told} == told
