"""Digests of the code, which decide whether a cache entry is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.spec import digests as module
from edgekit.spec.digests import code_digest

pytestmark = pytest.mark.device


def test_the_code_digest_knows_every_file(tmp_path, monkeypatch):
    before = code_digest()
    assert before == code_digest()
    package = tmp_path / "edgekit"
    (package / "spec").mkdir(parents=True)
    (package / "a.py").write_text("one")
    monkeypatch.setattr(module, "__file__", str(package / "spec" / "digests.py"))
    one = code_digest()
    (package / "a.py").write_text("two")
    two = code_digest()
    (package / "a.py").rename(package / "b.py")
    assert len({before, one, two, code_digest()}) == 4
    assert Path(module.__file__).parts[-2] == "spec"
