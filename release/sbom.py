"""Writes the bill of materials of a wheel: CycloneDX 1.6, JSON, made from the wheel's own metadata.

    python release/sbom.py dist/edgekit_sdk-0.1.0-py3-none-any.whl constraints.txt

writes ``edgekit_sdk-0.1.0.cdx.json`` beside the wheel. A dependency has the version that the tests run with (``constraints.txt``), where one is
pinned, and as properties what the wheel asks for and by which extras. The same wheel gives the same bytes.
"""

from __future__ import annotations

import argparse
import email.parser
import hashlib
import json
import uuid
import zipfile
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def pins(constraints: Path) -> dict[str, str]:
    """Version of each package that a constraints file pins, by its canonical name."""
    lines = (line.partition("#")[0].partition(";")[0].strip() for line in constraints.read_text("utf-8").splitlines())
    return {
        canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines) if version
    }


def bill(wheel: Path, pinned: dict[str, str]) -> str:
    """The bill of a wheel as JSON text."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(archive.read(name).decode("utf-8"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    own = metadata["Name"], metadata["Version"]
    root = Component(
        name=own[0],
        version=own[1],
        type=ComponentType.LIBRARY,
        description=metadata["Summary"],
        purl=PackageURL("pypi", None, *own),
        bom_ref=f"{own[0]}@{own[1]}",
        licenses=[LicenseExpression(metadata["License-Expression"])],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
    asked: dict[str, list[Requirement]] = {}
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) != own[0]:  # an extra that brings another one of its own
            asked.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    parts = [_component(package, requirements, pinned.get(package)) for package, requirements in sorted(asked.items())]
    bom = Bom(components=parts, serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}"))
    bom.metadata.component = root
    bom.register_dependency(root, parts)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"].pop(
        "timestamp"
    )  # the wheel's digest says which wheel it is; the clock would make each bill another one
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _component(package: str, requirements: list[Requirement], version: str | None) -> Component:
    return Component(
        name=package,
        version=version,
        type=ComponentType.LIBRARY,
        purl=PackageURL("pypi", None, package, version),
        bom_ref=f"{package}@{version}" if version else package,
        scope=ComponentScope.OPTIONAL
        if all(r.marker and "extra" in str(r.marker) for r in requirements)
        else ComponentScope.REQUIRED,
        properties=[Property(name="edgekit:requires", value=str(r)) for r in requirements],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("constraints", type=Path)
    given = parser.parse_args()
    name, version = given.wheel.name.split("-")[:2]
    out = given.wheel.with_name(f"{name}-{version}.cdx.json")
    out.write_text(bill(given.wheel, pins(given.constraints)), "utf-8")
    print(f"Wrote {out}.")


if __name__ == "__main__":
    main()
