"""The documentation's generated parts, and what its pages must hold to."""

from __future__ import annotations

import importlib.util
import re
import sys

import pytest
import small

pytest.importorskip("click", reason="the reference of the command line is read from click")


def _module():
    spec = importlib.util.spec_from_file_location("docs_reference", small.ROOT / "release/docs_reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reference = _module()
DOCS = small.ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", [path for path, _, _ in reference.pages()], ids=lambda path: path.stem)
def test_a_generated_page_is_up_to_date(page):
    text = page.read_text("utf-8")
    assert reference.rewritten(text) == text, "Run: python release/docs_reference.py"


def test_every_error_has_a_literal_code():
    sites = reference.sites()
    assert len(sites) > 500
    # The errors of click: their codes are those of a table, which the page lists too.
    assert [s for s in sites if s.code is None and s.place.split(":")[0] != "edgekit/cli/_output.py"] == []
    assert len([s for s in sites if s.code is None]) == 1
    codes = {s.code for s in sites if s.code is not None} | set(reference.click_codes())
    assert [code for code in sorted(codes) if not reference.CODE.fullmatch(code)] == []
    page = (DOCS / "reference/errors.md").read_text("utf-8")
    assert [code for code in sorted(codes) if f"| `{code}` |" not in page] == []


def test_a_code_has_one_exit_code():
    status = {}
    for site in reference.sites():
        if site.code is not None:
            status.setdefault(site.code, set()).add(reference.error_classes()[site.kind][1])
    assert {code: numbers for code, numbers in status.items() if len(numbers) > 1} == {}


def test_the_error_classes_are_those_of_the_package():
    from edgekit.spec import errors

    for name, (_, status, _) in reference.error_classes().items():
        if hasattr(errors, name):
            assert getattr(errors, name).exit_code == status, name


def test_every_environment_variable_is_described():
    assert reference.variables_in_code() == set(reference.VARIABLES)


def test_every_verb_and_option_has_a_description():
    for name, command in reference.verbs():
        assert command.help, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert parameter.help, f"{name} {parameter.name}"


def test_every_public_name_is_in_the_api_reference():
    import edgekit

    text = (DOCS / "reference/python.md").read_text("utf-8")
    assert [n for n in edgekit.__all__ if not n.startswith("_") and f"::: edgekit.{n}\n" not in text] == []


def test_every_key_of_a_file_has_a_meaning():
    for page in PAGES:
        for row in re.findall(r"^\| `\w+` \| [^|]* \| [^|]* \|(.*)\|$", page.read_text("utf-8"), re.MULTILINE):
            assert row.strip(), page


def test_the_navigation_lists_every_page():
    text = (small.ROOT / "mkdocs.yml").read_text("utf-8")
    listed = re.findall(r"([\w/-]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == [page.relative_to(DOCS).as_posix() for page in PAGES]


def test_links_of_the_readme_are_absolute():
    """PyPI shows the file too, without the repository beside it."""
    text = (small.ROOT / "README.md").read_text("utf-8")
    assert len(text.encode()) <= 8000
    targets = LINK.findall(text)
    assert targets
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []


def test_links_into_the_repository_exist():
    """A link to a file of the repository is a URL of its main branch."""
    start = "https://github.com/edgekit/edgekit/"
    for page in [small.ROOT / "README.md", *PAGES]:
        for target in LINK.findall(page.read_text("utf-8")):
            match = re.match(re.escape(start) + r"(?:blob|tree)/main/([^#]+)", target)
            if match:
                assert (small.ROOT / match.group(1)).exists(), f"{page}: {target}"


def test_nothing_is_loaded_from_another_host():
    """Reading needs no network: no image, script or font of another site."""
    for page in PAGES:
        assert re.findall(r"!\[[^\]]*\]\(https?:|<(?:img|script|link)\b[^>]*https?:", page.read_text("utf-8")) == []
    assert "font: false" in (small.ROOT / "mkdocs.yml").read_text("utf-8")
