"""EdgeKit: a fine-tuned Transformer in, a small measured bundle out, and one torch-free object that runs it.

    session = edgekit.load("out")
    session("a fine film").label

Importing this package, loading a bundle and running a session need only numpy, tokenizers and one backend. All other
functions are imported when they are first used.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

# Since 1.32 ONNX Runtime's builds collect usage data by default, on a thread that starts with its import. A forked
# child that exits waits for that thread for ever.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from edgekit.bundle.signature import Trust
from edgekit.runtime.load import load
from edgekit.runtime.session import Session, SessionInfo
from edgekit.spec.distribution import install_hint
from edgekit.spec.errors import (
    BackendError,
    BudgetError,
    BuildError,
    CompressError,
    EdgekitError,
    ExportError,
    FormatError,
    InputError,
    IntegrityError,
    ModelError,
    QuantizeError,
    RemoteError,
    SamplesError,
    UsageError,
)
from edgekit.spec.gates import AccuracyGates, FootprintGates, Gates, LatencyGates
from edgekit.spec.metric import Metric
from edgekit.spec.options import (
    BaselineOptions,
    BenchOptions,
    BuildOptions,
    CheckOptions,
    CompareOptions,
    DeployOptions,
    DistillOptions,
    EvaluateOptions,
    MeasureOptions,
    OnnxModel,
    PredictOptions,
    PruneOptions,
    TorchModule,
    TrimVocabOptions,
)
from edgekit.spec.target import Budget
from edgekit.spec.training import Loss, Training
from edgekit.spec.user_metric import FunctionMetric
from edgekit.tasks import Classification, LabelScores

if TYPE_CHECKING:
    from edgekit.builder import BuildResult, build
    from edgekit.compress.distill import Distilled, distill
    from edgekit.compress.vocabulary import Trimmed, trim_vocab
    from edgekit.report.bench import Bench, bench
    from edgekit.report.evaluate import BundleScores, evaluate
    from edgekit.report.predict import Predicted, predict
    from edgekit.runtime.compile import CompileResult
    from edgekit.runtime.compile import compile_bundle as compile
    from edgekit.search.pruning import PruneResult, prune
    from edgekit.verbs.bundles import (
        BundleInfo,
        PackedBundle,
        TargetList,
        UnpackedBundle,
        VerifyResult,
        inspect,
        pack,
        targets,
        unpack,
        verify,
    )
    from edgekit.verbs.keys import KeyPair, SignedBundle, keygen, sign
    from edgekit.verbs.reports import ReportResult, baseline, check, compare, measure

# A program that sets up logging gets the messages; without that nothing is printed, not even warnings.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"

__all__ = [
    "AccuracyGates",
    "BackendError",
    "BaselineOptions",
    "Bench",
    "BenchOptions",
    "Budget",
    "BudgetError",
    "BuildError",
    "BuildOptions",
    "BuildResult",
    "BundleInfo",
    "BundleScores",
    "CheckOptions",
    "Classification",
    "CompareOptions",
    "CompileResult",
    "CompressError",
    "DeployOptions",
    "DistillOptions",
    "Distilled",
    "EdgekitError",
    "EvaluateOptions",
    "ExportError",
    "FootprintGates",
    "FormatError",
    "FunctionMetric",
    "Gates",
    "InputError",
    "IntegrityError",
    "KeyPair",
    "LabelScores",
    "LatencyGates",
    "Loss",
    "MeasureOptions",
    "Metric",
    "ModelError",
    "OnnxModel",
    "PackedBundle",
    "PredictOptions",
    "Predicted",
    "PruneOptions",
    "PruneResult",
    "QuantizeError",
    "RemoteError",
    "ReportResult",
    "SamplesError",
    "Session",
    "SessionInfo",
    "SignedBundle",
    "TargetList",
    "TorchModule",
    "Training",
    "TrimVocabOptions",
    "Trimmed",
    "Trust",
    "UnpackedBundle",
    "UsageError",
    "VerifyResult",
    "__version__",
    "baseline",
    "bench",
    "build",
    "check",
    "compare",
    "compile",
    "distill",
    "evaluate",
    "inspect",
    "keygen",
    "load",
    "measure",
    "pack",
    "predict",
    "prune",
    "sign",
    "targets",
    "trim_vocab",
    "unpack",
    "verify",
]

_BUNDLES = "edgekit.verbs.bundles"
_KEYS = "edgekit.verbs.keys"
_REPORTS = "edgekit.verbs.reports"

_ON_FIRST_USE = {
    "Bench": ("edgekit.report.bench", "Bench"),
    "BuildResult": ("edgekit.builder", "BuildResult"),
    "BundleInfo": (_BUNDLES, "BundleInfo"),
    "BundleScores": ("edgekit.report.evaluate", "BundleScores"),
    "CompileResult": ("edgekit.runtime.compile", "CompileResult"),
    "Distilled": ("edgekit.compress.distill", "Distilled"),
    "KeyPair": (_KEYS, "KeyPair"),
    "PackedBundle": (_BUNDLES, "PackedBundle"),
    "Predicted": ("edgekit.report.predict", "Predicted"),
    "PruneResult": ("edgekit.search.pruning", "PruneResult"),
    "ReportResult": (_REPORTS, "ReportResult"),
    "SignedBundle": (_KEYS, "SignedBundle"),
    "TargetList": (_BUNDLES, "TargetList"),
    "Trimmed": ("edgekit.compress.vocabulary", "Trimmed"),
    "UnpackedBundle": (_BUNDLES, "UnpackedBundle"),
    "VerifyResult": (_BUNDLES, "VerifyResult"),
    "baseline": (_REPORTS, "baseline"),
    "bench": ("edgekit.report.bench", "bench"),
    "build": ("edgekit.builder", "build"),
    "check": (_REPORTS, "check"),
    "compare": (_REPORTS, "compare"),
    "compile": ("edgekit.runtime.compile", "compile_bundle"),
    "distill": ("edgekit.compress.distill", "distill"),
    "evaluate": ("edgekit.report.evaluate", "evaluate"),
    "inspect": (_BUNDLES, "inspect"),
    "keygen": (_KEYS, "keygen"),
    "measure": (_REPORTS, "measure"),
    "pack": (_BUNDLES, "pack"),
    "predict": ("edgekit.report.predict", "predict"),
    "prune": ("edgekit.search.pruning", "prune"),
    "sign": (_KEYS, "sign"),
    "targets": (_BUNDLES, "targets"),
    "trim_vocab": ("edgekit.compress.vocabulary", "trim_vocab"),
    "unpack": (_BUNDLES, "unpack"),
    "verify": (_BUNDLES, "verify"),
}
"""Public name to its module and its name there. A device needs none of them, and some bring torch."""


def __dir__() -> list[str]:
    """Return the public names, those that are imported on first use among them."""
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Return a name of :data:`_ON_FIRST_USE`.

    Raises:
        AttributeError: If the name is not public.
        BuildError: If a package that the function needs is not installed.
    """
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    module, attribute = _ON_FIRST_USE[name]
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as problem:
        if (problem.name or "").startswith("edgekit"):
            raise
        raise BuildError(
            f"edgekit.{name} needs the package '{problem.name}', which is not installed here. "
            f"Run: {install_hint('build')}",
            code="package-missing",
        ) from problem
