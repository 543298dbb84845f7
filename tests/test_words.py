"""Names, documentation entries and statements of the package: what the style rules of CONTRIBUTING ask for and a program can hold."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "edgekit"
FILES = sorted(PACKAGE.rglob("*.py"))

REFUSED_NAMES = frozenset(
    [
        "aim",
        "asked",
        "blank",
        "found",
        "given",
        "held",
        "its",
        "kept",
        "made",
        "ours",
        "own",
        "said",
        "shown",
        "taken",
        "theirs",
        "there",
        "told",
        "wanted",
    ]
)
"""Words that tell nothing about what a variable holds."""

NO_NOUNS = frozenset(
    [
        "about",
        "above",
        "after",
        "against",
        "along",
        "among",
        "as",
        "at",
        "because",
        "before",
        "behind",
        "below",
        "beside",
        "between",
        "beyond",
        "but",
        "by",
        "can",
        "does",
        "during",
        "else",
        "every",
        "for",
        "from",
        "he",
        "her",
        "his",
        "how",
        "if",
        "in",
        "inside",
        "into",
        "is",
        "it",
        "its",
        "less",
        "like",
        "may",
        "more",
        "most",
        "must",
        "not",
        "nothing",
        "of",
        "off",
        "on",
        "only",
        "or",
        "out",
        "over",
        "per",
        "she",
        "since",
        "so",
        "some",
        "than",
        "that",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "upon",
        "what",
        "when",
        "where",
        "wherever",
        "which",
        "while",
        "who",
        "whoever",
        "whom",
        "whose",
        "why",
        "with",
        "within",
        "without",
        "would",
    ]
)
"""Words that a documentation entry does not begin with: prepositions, relative words, pronouns, verbs."""

SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:")


def entries(docstring):
    """Yields name and text of each entry in the sections of a Google-style docstring."""
    section = indent = None
    for line in docstring.expandtabs().splitlines():
        stripped = line.strip()
        if stripped in (*SECTIONS, "Raises:", "Example:", "Examples:", "Note:"):
            section, indent = stripped, None
            continue
        if not stripped or section not in SECTIONS:
            continue
        depth = len(line) - len(line.lstrip())
        indent = depth if indent is None else indent
        if depth < indent:
            section = None
            continue
        if depth > indent:
            continue  # the entry above goes on
        if section in ("Args:", "Attributes:"):
            name, colon, text = stripped.partition(": ")
            if colon:
                yield name, text
        else:
            yield section, stripped
            indent = -1  # one paragraph


@functools.cache
def text(path):
    return path.read_text("utf-8")


@functools.cache
def nodes(path):
    """Returns all nodes of a file's syntax tree."""
    return list(ast.walk(ast.parse(text(path))))


def documented(path):
    """Yields the docstrings of a file."""
    for node in nodes(path):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def wrong_entries(path):
    """Returns the entries of a file that do not begin with a noun."""
    wrong = []
    for docstring in documented(path):
        for name, entry in entries(docstring):
            first = re.match(r"[A-Za-z]+", entry)
            if first and first.group().lower() in NO_NOUNS:
                wrong.append(f"{name}: {entry[:70]}")
    return wrong


def bound_names(path):
    """Yields each name that a file binds, with its line."""
    for node in nodes(path):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno


def refused_names(path):
    """Returns the names of a file that tell nothing."""
    return [f"line {line}: {name}" for name, line in bound_names(path) if name.strip("_") in REFUSED_NAMES]


_DENSE = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp)
_SIMPLE = (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Return, ast.Expr, ast.Raise, ast.Assert, ast.Delete)


def dense_statements(path):
    """Returns the simple statements of a file that hold more than one comprehension or conditional expression."""
    dense = []
    for node in nodes(path):
        if isinstance(node, _SIMPLE):
            count = sum(isinstance(part, _DENSE) for part in ast.walk(node))
            if count > 1:
                dense.append(f"line {node.lineno}: {count}")
    return dense


def packed_statements(path):
    """Returns the statements that bind several names to several expressions, ``a, b = c, d``."""
    packed = []
    for node in nodes(path):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Tuple)
            and isinstance(node.targets[0], ast.Tuple)
        ):
            packed.append(f"line {node.lineno}")
    return packed


def long_lines(path):
    """Returns the lines of a file that are over 120 columns."""
    return [f"line {number}" for number, line in enumerate(text(path).splitlines(), 1) if len(line) > 120]


CHECKS = {
    "entry begins with a noun": wrong_entries,
    "name says what it holds": refused_names,
    "one idea a statement": dense_statements,
    "one assignment a statement": packed_statements,
    "120 columns": long_lines,
}


JSON_KEYS = frozenset({"spec/comparison.py", "spec/report.py", "spec/trial.py"})
"""Files whose dataclasses have fields of refused names, which are keys of written files."""


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_style(check):
    wrong = {}
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if check == "name says what it holds" and name in JSON_KEYS:
            continue
        places = CHECKS[check](path)
        if places:
            wrong[name] = places
    assert not wrong
