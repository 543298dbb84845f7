"""The bill of materials of a release: valid CycloneDX, and as the wheel's metadata says."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile

import pytest
import small

pytest.importorskip("cyclonedx", reason="the extra dev brings cyclonedx-python-lib")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel's name and metadata, with the kinds of requirements that there are."""
    file = tmp_path_factory.mktemp("dist") / "edgekit_sdk-0.1.0-py3-none-any.whl"
    metadata = """Metadata-Version: 2.4
Name: edgekit-sdk
Version: 0.1.0
Summary: A summary
License-Expression: Apache-2.0
Requires-Dist: numpy>=1.26
Requires-Dist: tokenizers>=0.21
Provides-Extra: build
Requires-Dist: edgekit-sdk[report]; extra == 'build'
Requires-Dist: torch>=2.9; extra == 'build'
Requires-Dist: No.Such_Package; extra == 'build'
Provides-Extra: report
Requires-Dist: tomli>=2; (python_version < '3.11') and extra == 'report'
"""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("edgekit_sdk-0.1.0.dist-info/METADATA", metadata)
    return file


def test_the_bill_of_a_wheel(wheel):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    texts = []
    for _ in range(2):
        command = [sys.executable, small.ROOT / "release/sbom.py", wheel, small.ROOT / "constraints.txt"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        texts.append(wheel.with_name("edgekit_sdk-0.1.0.cdx.json").read_text("utf-8"))
    assert texts[0] == texts[1]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(texts[0]) is None
    bill = json.loads(texts[0])
    own = bill["metadata"]["component"]
    assert (own["name"], own["version"], own["purl"]) == ("edgekit-sdk", "0.1.0", "pkg:pypi/edgekit-sdk@0.1.0")
    assert own["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}]
    parts = {part["name"]: part for part in bill["components"]}
    assert {name: part["scope"] for name, part in parts.items()} == {
        "no-such-package": "optional", "numpy": "required", "tokenizers": "required", "tomli": "optional", "torch": "optional",
    }  # fmt: skip
    pinned = dict(line.split("==") for line in (small.ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert parts["numpy"]["version"] == pinned["numpy"]
    assert parts["numpy"]["purl"] == f"pkg:pypi/numpy@{pinned['numpy']}"
    assert "version" not in parts["no-such-package"]
    assert parts["torch"]["properties"][0]["value"].startswith("torch>=2.9")
    (edges,) = (entry["dependsOn"] for entry in bill["dependencies"] if entry["ref"] == own["bom-ref"])
    assert len(edges) == len(parts)
