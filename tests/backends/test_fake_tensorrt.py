"""The stand-in for TensorRT is like TensorRT: its names are NVIDIA's, and TensorRT-RTX answers the same questions alike.

TensorRT-RTX builds where there is no GPU, so its builder is the truth for ours.
"""

from __future__ import annotations

import hashlib
import inspect
import re

import fake_tensorrt
import numpy as np
import onnx
import pytest
import tensorrt_bindings as bindings
from fake_tensorrt_bench import SHAPES, VERSIONS, Bench, encoder, graph, one
from onnx import TensorProto, helper


@pytest.fixture(params=[*VERSIONS, bindings.RTX])
def both(request):
    """Of a fake, and of the real TensorRT-RTX."""
    if request.param == bindings.RTX:
        return Bench(
            pytest.importorskip(
                "tensorrt_rtx_bindings",
                reason="TensorRT-RTX is not installed, so there is no real builder to compare with",
            )
        )
    return Bench(fake_tensorrt.make(request.param))


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


# ---- names


def fake_classes(trt):
    return {name: value for name, value in vars(trt).items() if isinstance(value, type)}


@pytest.mark.parametrize("source", ["the lists", "the bindings"])
@pytest.mark.parametrize("version", VERSIONS)
def test_no_name_that_the_real_one_does_not_have(version, source):
    """A name that is here alone would let code pass that fails on a device."""
    try:
        real = (
            bindings.listed(version)
            if source == "the lists"
            else {k: set(v) for k, v in bindings.dump(version)["names"].items() if isinstance(v, dict)}
        )
    except bindings.Absent as reason:
        pytest.skip(str(reason))
    trt = fake_tensorrt.make(version)
    for name, kind in fake_classes(trt).items():
        assert name in real, f"TensorRT {version} has no {name}"
        assert public(kind) <= real[name], f"TensorRT {version} has no {name}.{'/'.join(public(kind) - real[name])}"
    assert {name for name in vars(trt) if not name.startswith("_")} == set(fake_classes(trt))


@pytest.mark.parametrize("version", VERSIONS)
def test_enums_have_the_values_and_the_order_of_the_real_ones(version):
    try:
        real = bindings.dump(version)
    except bindings.Absent as reason:
        pytest.skip(str(reason))
    trt = fake_tensorrt.make(version)
    enums = {name: kind for name, kind in fake_classes(trt).items() if hasattr(kind, "__members__")} | {
        "ILogger.Severity": trt.ILogger.Severity
    }
    assert len(enums) == 12
    for name, kind in enums.items():
        members = {member: value for member, value in real["names"][name].items() if isinstance(value, int)}
        members.pop("WEIGHTLESS", None)  # an old name of STRIP_PLAN
        assert {member: int(value) for member, value in kind.__members__.items()} == members, name
        if name != "ILogger.Severity":
            assert ("__lt__" in vars(kind)) == (name in real["ordered"]), name


@pytest.mark.parametrize("version", VERSIONS)
def test_methods_take_the_arguments_of_the_real_ones(version):
    """By name and in order, each method that takes any."""
    try:
        real = bindings.dump(version)["names"]
    except bindings.Absent as reason:
        pytest.skip(str(reason))
    compared = 0
    for name, kind in fake_classes(fake_tensorrt.make(version)).items():
        for method in public(kind) | (
            {"__init__"} if name in ("Builder", "Runtime", "OnnxParser", "ILogger", "Logger") else set()
        ):
            signatures, function = real[name][method], getattr(kind, method)
            if not isinstance(signatures, list) or not inspect.isfunction(function):
                assert not inspect.isfunction(function) and not isinstance(signatures, list), (
                    f"{name}.{method} is a method in one and not in the other"
                )
                continue
            if not signatures:  # ErrorCode.name of 10.3
                continue
            ours = [p.name for p in inspect.signature(function).parameters.values()]
            theirs = [re.findall(r"(?:^|, )(\w+): ", signature.partition("(")[2]) for signature in signatures]
            assert ours in theirs, f"{name}.{method}: {ours} is none of {theirs}"
            compared += 1
    assert compared > 60


def test_versions_differ_where_the_real_ones_do():
    ten, eleven = fake_tensorrt.make("10.3.0"), fake_tensorrt.make("11.4.0")
    assert (ten.__version__, eleven.__version__) == ("10.3.0", "11.4.0.106")
    assert (
        int(ten.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 1
        and int(eleven.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 0
    )
    for owner, name in (
        (ten.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
        (ten.BuilderFlag, "FP16"),
        (ten.Builder, "platform_has_fast_int8"),
    ):
        assert hasattr(owner, name) and not hasattr(getattr(eleven, owner.__name__), name)
    assert not hasattr(ten.IBuilderConfig, "max_num_tactics") and hasattr(
        fake_tensorrt.make("10.16.1").IBuilderConfig, "max_num_tactics"
    )


# ---- the same questions to both


def test_objects_take_no_new_attributes_and_are_not_made_by_hand(both):
    for value in (both.builder, both.config, both.builder.create_network(), both.builder.create_optimization_profile()):
        with pytest.raises(AttributeError):
            value.max_workspace_size = 1
    for kind in (both.trt.ICudaEngine, both.trt.INetworkDefinition, both.trt.IHostMemory):
        with pytest.raises(TypeError, match="No constructor defined"):
            kind()


def test_enums_are_no_integers(both):
    flags, types = both.trt.BuilderFlag, both.trt.DataType
    assert types(1) == types.HALF and types.HALF != 1 and types.HALF is not None and {types.HALF: 1}[types(1)] == 1
    assert (types.HALF.name, types.HALF.value, int(types.HALF), str(types.HALF), repr(types.HALF)) == (
        "HALF",
        1,
        1,
        "DataType.HALF",
        "<DataType.HALF: 1>",
    )
    assert (types.FLOAT.itemsize, types.INT64.itemsize) == (4, 8)
    assert flags.DEBUG < flags.TF32 and both.trt.ILogger.ERROR < both.trt.Logger.Severity.INFO
    for wrong in (
        lambda: 1 << flags.TF32,
        lambda: flags.TF32 < 7,
        lambda: types.FLOAT < types.HALF,
        lambda: list(types),
        lambda: types["HALF"],
    ):
        with pytest.raises(TypeError):
            wrong()


def test_dims_are_no_tuples(both):
    dims = both.trt.Dims((1, -1, 3))
    assert (len(dims), tuple(dims), dims[-1], dims[:2], str(dims)) == (3, (1, -1, 3), 3, (1, -1), "(1, -1, 3)")
    assert dims == (1, -1, 3) and dims == [1, -1, 3] and dims != (1, -1, 4) and not isinstance(dims, tuple)
    assert both.trt.Dims(np.array([1, 2])) == (1, 2)
    for wrong in (
        lambda: dims == both.trt.Dims(dims),
        lambda: hash(dims),
        lambda: both.trt.Dims((1.5,)),
        lambda: both.trt.Dims("ab"),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(IndexError):
        dims[3]
    with pytest.raises(ValueError, match="Max expected length is 8"):
        both.trt.Dims([1] * 9)


@pytest.mark.parametrize("base", ["ILogger", "IProgressMonitor"])
def test_a_subclass_must_call_the_base_class(both, base):
    class Forgetful(getattr(both.trt, base)):
        def __init__(self):
            self.lines = []

    with pytest.raises(TypeError, match=rf"{base}.__init__\(\) must be called when overriding __init__"):
        Forgetful()


def test_a_logger_that_raises_ends_nothing(both, capfd):
    class Raising(both.trt.ILogger):
        def log(self, severity, msg):
            raise ValueError("not now")

    network = both.builder.create_network()
    assert both.trt.OnnxParser(network, Raising()).parse(b"garbage") is False
    assert "Exception caught in log(): ValueError: not now" in capfd.readouterr().err


def test_the_default_logger_writes_from_a_severity_on(both, capfd):
    logger = both.trt.Logger()
    logger.log(both.trt.Logger.ERROR, "seen")
    logger.log(both.trt.Logger.INFO, "not seen")
    out = "".join(capfd.readouterr())
    assert "[TRT] [E] seen" in out and "not seen" not in out
    with pytest.raises(TypeError):
        both.trt.Builder(object())


def test_networks_tell_their_inputs(both):
    network, parser, parsed = both.parse(encoder())
    assert parsed and parser.num_errors == 0 and parser.get_error(0) is None
    assert [(t.name, t.dtype, tuple(t.shape)) for t in map(network.get_input, range(network.num_inputs))] == [
        (name, both.trt.DataType.INT64, (-1, -1)) for name in ("ids", "mask")
    ]
    assert (network.num_outputs, network.get_output(0).name, tuple(network.get_output(0).shape)) == (
        1,
        "y",
        (-1, -1, 4),
    )
    assert network.get_output(0).dtype == both.trt.DataType.FLOAT and network.num_layers > 4
    assert "Make sure input ids has Int64 binding" in str(both.log.lines)
    assert network.get_input(2) is None and "getInput" in both.log.errors


def test_a_network_refuses_flags_that_do_not_exist(both):
    assert both.builder.create_network(1 << 20) is None and "createNetworkV2" in both.log.errors
    for wrong in (-1, 1.0, None):
        with pytest.raises(TypeError):
            both.builder.create_network(wrong)
    typed = both.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert both.builder.create_network(1 << int(typed)).get_flag(typed) is True


def qdq(scale=0.1, zero=0):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="dequantize"),
    ]
    ends = [(name, TensorProto.FLOAT, ["b", 8]) for name in "xy"]
    return graph(nodes, ends[:1], ends[1:], {"s": np.float32(scale), "z": np.int8(zero)})


REFUSED = {
    "an unknown operator": (one("Nonsense", ["x"]), "INVALID_NODE", "only", "Nonsense", "Plugin not found"),
    "an operator of another domain": (
        one("FusedMatMul", ["x", "x"], domain="com.microsoft"),
        "INVALID_NODE",
        "only",
        "FusedMatMul",
        "Plugin not found",
    ),
    "dynamic quantization": (one("MatMulInteger", ["x", "x"]), "UNSUPPORTED_NODE", "only", "MatMulInteger", "false"),
    "a zero point": (qdq(zero=3), "INVALID_NODE", "quantize", "QuantizeLinear", "Non-zero zero point is not supported"),
    "a scale of 0": (
        qdq(scale=0),
        "INVALID_NODE",
        "quantize",
        "QuantizeLinear",
        "Scale coefficients must all be positive",
    ),
    "a negative scale": (
        qdq(scale=-1),
        "INVALID_NODE",
        "quantize",
        "QuantizeLinear",
        "Scale coefficients must all be positive",
    ),
    "two types": (
        one("MatMul", ["x", "W"], {"W": np.ones((8, 8), np.float16)}),
        "INVALID_NODE",
        "only",
        "MatMul",
        "must have same input types",
    ),
    "a loose end": (one("Relu", ["nothing"]), "INVALID_GRAPH", "only", "Relu", "Node input was not registered"),
    "other bytes": (b"garbage", "MODEL_DESERIALIZE_FAILED", "", "", "Failed to parse the ONNX model"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_parser_refuses(both, what):
    model, code, name, operator, text = REFUSED[what]
    network, parser, parsed = both.parse(model)
    assert parsed is False and network is not None and parser.num_errors == 1
    error = parser.get_error(0)
    assert (str(error.code()).removeprefix("ErrorCode."), error.node_name(), error.node_operator(), error.node()) == (
        code,
        name,
        operator,
        0 if name else -1,
    )
    assert text in error.desc() and text in str(error) and error.local_function_stack() == []
    assert text in both.log.errors, "the log has it too"
    parser.clear_errors()
    assert parser.num_errors == 0


def test_external_data_is_found_beside_the_file(both, tmp_path):
    onnx.save(encoder(), tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    data = (tmp_path / "m.onnx").read_bytes()

    networks = [both.builder.create_network() for _ in range(5)]
    parsers = [both.trt.OnnxParser(network, both.log) for network in networks]
    assert parsers[0].parse_from_file(str(tmp_path / "m.onnx")) is True
    assert parsers[1].parse(data, str(tmp_path / "m.onnx")) is True
    assert parsers[2].parse(data) is False, "without a path they are looked for in the working directory"
    for wrong in (tmp_path / "m.onnx", None):
        with pytest.raises(TypeError):
            parsers[3].parse_from_file(wrong)
    (tmp_path / "w.bin").unlink()
    failing = parsers[4]
    assert failing.parse_from_file(str(tmp_path / "m.onnx")) is False
    assert (
        failing.get_error(0).code() == both.trt.ErrorCode.INVALID_GRAPH
        and "Failed to import initializer" in failing.get_error(0).desc()
    )
    assert failing.parse_from_file(str(tmp_path / "none.onnx")) is False
    assert "Input file cannot be found" in failing.get_error(failing.num_errors - 1).desc()


def test_a_network_is_parsed_once(both):
    network, parser, _ = both.parse(encoder())
    assert network.num_inputs == 2 and parser.parse(encoder().SerializeToString()) is False
    assert "Parse was called with a non-empty network definition" in both.log.errors and parser.num_errors == 0, (
        "the log has it alone"
    )


def test_a_profile_that_cannot_be_raises_nothing(both):
    profile = both.builder.create_optimization_profile()
    assert bool(profile)
    profile.set_shape("ids", (1, 1), (5, 5), (4, 4))
    assert (
        not profile
        and both.config.add_optimization_profile(profile) == -1
        and both.config.num_optimization_profiles == 0
    )
    assert "MIN<=OPT<=MAX" in both.log.errors
    profile.set_shape("ids", (1, 1), (2, 2), (4, 4))
    assert both.config.add_optimization_profile(profile) == 0
    assert [tuple(shape) for shape in profile.get_shape("ids")] == [(1, 1), (2, 2), (4, 4)] and profile.get_shape(
        "other"
    ) == []
    with pytest.raises(RuntimeError, match="Shape provided for min is inconsistent"):
        profile.set_shape("ids", (-1, 1), (2, 2), (4, 4))
    for wrong in ((1.5, 1), "11", 1):
        with pytest.raises(TypeError):
            profile.set_shape("ids", wrong, (2, 2), (4, 4))


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (None, "Network has dynamic or shape inputs, but no optimization profile has been defined."),
        ({"ids": SHAPES["ids"]}, "Dynamic input tensor mask is missing dimensions in profile 0."),
        (
            {"ids": ((1,), (2,), (4,)), "mask": SHAPES["mask"]},
            "Dynamic-shaped input tensor ids has 2 dimensions but profile 0 has 1 dimensions.",
        ),
    ],
    ids=["none", "an input is missing", "another rank"],
)
def test_a_build_without_the_right_profile_gives_none(both, shapes, text):
    assert both.build(encoder(), *([shapes] if shapes else [])) is None
    assert text in both.log.errors and "IBuilder::buildSerializedNetwork: Error Code 4" in both.log.errors


def test_a_profile_must_have_the_fixed_sizes(both):
    assert both.build(one("Relu", ["x"]), {"x": ((1, 4), (2, 4), (3, 4))}) is None
    assert (
        "Dimension mismatch for tensor x and profile 0. At dimension axis 1, profile has min=4, opt=4, max=4 but tensor has 8."
        in both.log.errors
    )


def test_a_plan_is_bytes_and_has_no_length(both, tmp_path):
    plan = both.build(encoder(), SHAPES)
    data = bytes(plan)
    assert plan.nbytes == len(data) == memoryview(plan).nbytes > 1000 and plan.dtype == both.trt.DataType.INT8
    with pytest.raises(TypeError):
        len(plan)
    with pytest.raises(TypeError):
        plan[0]
    (tmp_path / "plan").open("wb").write(plan)
    assert (tmp_path / "plan").read_bytes() == data and hashlib.sha256(plan).digest() == hashlib.sha256(data).digest()
    assert np.frombuffer(plan, np.uint8).tobytes() == data and memoryview(plan).cast("B")[:4] == data[:4]
    assert isinstance(plan, both.trt.IHostMemory)


def test_settings_of_a_build(both):
    config, trt = both.config, both.trt
    assert config.get_flag(trt.BuilderFlag.TF32) is True, "on by default"
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.DEBUG)
    assert not config.get_flag(trt.BuilderFlag.TF32) and config.flags == 1 << int(trt.BuilderFlag.DEBUG)
    config.builder_optimization_level = 9
    assert config.builder_optimization_level == 5 and config.max_aux_streams == -1
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    assert config.profiling_verbosity == trt.ProfilingVerbosity.LAYER_NAMES_ONLY
    config.progress_monitor = None
    wrong = [
        lambda: config.set_memory_pool_limit(0, 1),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, -1),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e6),
        lambda: config.set_flag(int(trt.BuilderFlag.DEBUG)),
        lambda: setattr(config, "builder_optimization_level", "3"),
        lambda: setattr(config, "profiling_verbosity", 2),
        lambda: setattr(config, "progress_monitor", object()),
        lambda: config.set_timing_cache(config.create_timing_cache(b"")),
    ]
    for call in wrong:
        with pytest.raises(TypeError):
            call()


def monitor(trt, stop=None, raising=None):
    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)
            self.events = []

        def phase_start(self, phase_name, parent_phase, num_steps):
            self.events.append(("start", phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name, step):
            if raising:
                raise raising
            self.events.append(("step", phase_name, step))
            return stop is None or len(self.events) < stop

        def phase_finish(self, phase_name):
            self.events.append(("finish", phase_name))

    return Monitor()


def test_a_monitor_is_told_of_nested_phases(both):
    both.config.progress_monitor = told = monitor(both.trt)
    assert both.build(encoder(), SHAPES) is not None
    assert told.events[0][:3] == ("start", "Building engine", None) and told.events[-1] == ("finish", "Building engine")
    assert told.events[1] == ("start", "Cloning network graph", "Building engine", told.events[1][3])
    open_, steps = [], {}
    for kind, name, *rest in told.events:
        if kind == "start":
            assert rest[0] == (open_[-1] if open_ else None), "a phase begins in the one that is open"
            open_.append(name)
            steps[name] = 0
        elif kind == "step":
            assert rest[0] == steps[name]
            steps[name] += 1
        else:
            assert open_.pop() == name
    assert not open_ and steps["Cloning network graph"] == told.events[1][3]


@pytest.mark.parametrize("how", ["it says so", "it raises"])
def test_a_monitor_ends_a_build(both, how, capfd):
    told = monitor(
        both.trt, stop=4 if how == "it says so" else None, raising=None if how == "it says so" else KeyError("no")
    )
    both.config.progress_monitor = told
    assert both.build(encoder(), SHAPES) is None
    assert "BuildCanceled (Build canceled by user" in both.log.errors
    phases = [event[1] for event in told.events if event[0] != "step"]
    assert sorted(phases) == sorted(phases[: len(phases) // 2] * 2), "open phases are finished"
    assert ("Exception caught in step_complete(): KeyError: 'no'" in capfd.readouterr().err) == (how == "it raises")


def test_a_runtime_gives_none_for_other_bytes(both):
    runtime = both.trt.Runtime(both.log)
    for bad in (b"", b"garbage"):
        assert runtime.deserialize_cuda_engine(bad) is None
    assert "Cannot deserialize with an empty memory buffer" in both.log.errors
    for wrong in ("text", None, 3):
        with pytest.raises(TypeError):
            runtime.deserialize_cuda_engine(wrong)
