"""Makes a baseline of a bundle, and checks three bundles against it: the same, one with broken weights, one with a damaged file.

Run `python examples/02_check/demo.py --help` for the settings.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORK = HERE.parents[1] / ".work"
MEANING = {0: "pass", 3: "regression", 5: "damaged"}


def edgekit(*arguments: str | Path, expected: int) -> None:
    """Run a verb, show it, and end the demo if the exit code is another one than expected.

    Args:
        arguments: The verb and what it is given.
        expected: The exit code.

    Raises:
        SystemExit: If the exit code is another one.
    """
    print(f"\n$ edgekit {' '.join(map(str, arguments))}", flush=True)
    code = subprocess.run([sys.executable, "-m", "edgekit", *map(str, arguments)], check=False).returncode
    print(f"-> exit code {code} ({MEANING.get(code, 'not expected here')})", flush=True)
    if code != expected:
        raise SystemExit(f"Expected exit code {expected}.")


def with_broken_weights(bundle: Path, place: Path) -> None:
    """Write a bundle whose digests are all right, but whose matrices have their rows in reverse order.

    So may a broken export or a mix-up of files look: nothing but the answers can tell.
    """
    import onnx

    from edgekit.bundle import assemble
    from edgekit.bundle.trust import open_bundle

    opened = open_bundle(bundle)
    files: dict[str, Path | bytes] = {
        name: bundle / name for name in opened.manifest.files if not name.startswith("graphs/weights/")
    }
    for name in [name for name in files if name.endswith(".onnx")]:
        model = onnx.load(bundle / name)  # with the weights that lie beside it
        for tensor in model.graph.initializer:
            if len(tensor.dims) == 2:
                tensor.CopyFrom(
                    onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[::-1].copy(), tensor.name)
                )
        files[name] = model.SerializeToString()
    assemble.write(place, replace(opened.manifest, files={}), files, force=True)


def with_damaged_file(bundle: Path, place: Path) -> None:
    """Write a copy of a bundle in which one byte of a graph is another one, as after a bad download."""
    from edgekit.bundle import assemble
    from edgekit.bundle.trust import open_bundle

    opened = open_bundle(bundle)
    assemble.write(
        place, replace(opened.manifest, files={}), {name: bundle / name for name in opened.manifest.files}, force=True
    )
    graph = next(place / name for name in sorted(opened.manifest.files) if name.endswith(".onnx"))
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def main() -> None:
    """Run the whole example."""
    parser = argparse.ArgumentParser(description="Make a baseline of a bundle, and check three bundles against it.")
    parser.add_argument(
        "--bundle",
        type=Path,
        default=WORK / "voice_commands" / "bundle",
        help="the bundle (default: that of the first example)",
    )
    parser.add_argument(
        "--samples",
        type=Path,
        default=WORK / "voice_commands" / "data" / "dev.jsonl",
        help="labelled samples (default: likewise)",
    )
    parser.add_argument(
        "--work", type=Path, default=WORK / "check", help="folder for all that is made (default: %(default)s)"
    )
    args = parser.parse_args()
    for path in (args.bundle, args.samples):
        if not path.exists():
            raise SystemExit(
                f"{path} does not exist. Run `make demo` first, or name a bundle and samples of your own with --bundle and --samples."
            )
    args.work.mkdir(parents=True, exist_ok=True)
    baseline = args.work / "baseline.json"
    check = ("--baseline", baseline, "--samples", args.samples, "--gates", HERE / "gates.toml")

    print("1. What there is, is measured once. The file holds no text, and can be committed.")
    edgekit("baseline", args.bundle, "--samples", args.samples, "-o", baseline, expected=0)

    print("\n2. The same bundle passes.")
    edgekit("check", args.bundle, *check, "-o", args.work / "report", expected=0)

    print("\n3. A bundle with broken weights, all of whose digests are right, does not.")
    with_broken_weights(args.bundle, args.work / "broken")
    edgekit("check", args.work / "broken", *check, "-o", args.work / "report_broken", expected=3)

    print("\n4. A damaged file is no matter of statistics.")
    with_damaged_file(args.bundle, args.work / "damaged")
    edgekit("check", args.work / "damaged", *check, expected=5)

    print(
        f"\nFor people: {args.work / 'report_broken' / 'report.html'}; for a pull request: report.md; for a CI server: junit.xml."
    )


if __name__ == "__main__":
    main()
