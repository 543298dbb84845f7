"""Write the generated parts of the documentation from the code.

    python release/docs_reference.py            # rewrite docs/
    python release/docs_reference.py --check    # exit status 1 where a page is out of date

A page holds a generated part between two comments, ``<!-- generated: NAME -->`` and ``<!-- end generated -->``; the text around
them is written by hand. ``PARTS`` maps each name to its function. The tables of dataclasses take their text from the ``Attributes``
sections of the docstrings, the command line reference from click, the errors from their construction sites.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PART = re.compile(r"(<!-- generated: (?P<name>[\w.\- ]+) -->\n).*?(<!-- end generated -->)", re.DOTALL)
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

VARIABLES = {
    "EDGEKIT_CACHE": (
        "Folder of the build cache and of engines.",
        "`$XDG_CACHE_HOME/edgekit`, else `~/.cache/edgekit`",
    ),
    "EDGEKIT_CACHE_MB": (
        "Size limit of the build cache in MiB. The least recently used entries are removed above it.",
        "8192",
    ),
    "EDGEKIT_ENGINES_MB": ("Size limit of the cache of TensorRT engines in MiB.", "4096"),
    "EDGEKIT_ID_KEY": (
        "Secret key of the hashes that name rows in reports and baselines. Set it to the same value on all machines whose reports are compared.",
        "a random key in `$XDG_STATE_HOME/edgekit`, made at first use",
    ),
    "ORT_DISABLE_TELEMETRY": (
        "Switches off the usage data of ONNX Runtime 1.32 and newer. `import edgekit` sets it unless it is set.",
        "`1`",
    ),
    "RANK": (
        "Number of this process, which `torchrun` and `accelerate launch` set. `edgekit distill` prints in process 0 alone.",
        "`0`",
    ),
    "XDG_CACHE_HOME": ("Base folder of caches, see `EDGEKIT_CACHE`.", "`~/.cache`"),
    "XDG_STATE_HOME": ("Base folder of state, see `EDGEKIT_ID_KEY`. A relative path is ignored.", "`~/.local/state`"),
}
"""Environment variables: what each does, and its default. A test holds the names against the code."""

PASSED_ON = {"PATH", "PYTHONPATH"}
"""Variables that are extended for child processes and have no meaning of EdgeKit's."""


# ---- Markdown


def cell(text: str) -> str:
    """Return text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def prose(text: str) -> str:
    """Return docstring text as Markdown: literals in single backticks, references as literals."""
    text = re.sub(r":(?:\w+:)?\w+:`~?([^`]+)`", r"`\1`", text)
    return text.replace("``", "`")


def literals(text: str) -> str:
    """Return help text as Markdown: options and commands in backticks, and no HTML."""
    text = text.replace("<", "&lt;").replace("[", "\\[")
    text = re.sub(r"(?<![\w`\-])(--[a-z][a-z-]*)", r"`\1`", text)
    return re.sub(r"'(edgekit [a-z -]+)'", r"`\1`", text)


# ---- the command line


def verbs() -> Iterator[tuple[str, Any]]:
    """Yield the name and click command of each verb, in the order of ``edgekit --help``."""
    import pkgutil

    from edgekit import cli

    names = {
        m.name.rstrip("_").replace("_", "-"): m.name for m in pkgutil.iter_modules(cli.__path__) if m.name[0] != "_"
    }
    order = list(cli._ORDER)
    for name in sorted(names, key=lambda n: order.index(n) if n in order else len(order)):
        yield name, importlib.import_module(f"edgekit.cli.{names[name]}").command


def command_line() -> str:
    """Return a section for each verb: usage, description and options."""
    import click

    def section(name: str, command: Any, level: int) -> list[str]:
        context = click.Context(command, info_name=f"edgekit {name}", max_content_width=110)
        usage = " ".join(command.get_usage(context).removeprefix("Usage:").split())
        help_text = re.sub(r"\\b|\x08", "", inspect.cleandoc(command.help or ""))
        lines = [f"{'#' * level} edgekit {name}", "", "```text", usage, "```", "", literals(help_text), ""]
        rows = []
        for parameter in command.params:
            if {"--verbose", "--quiet"} & set(parameter.opts):
                continue  # of every verb, once it has run; the page says so at its head
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                rows.append((f"`{record[0]}`", literals(record[1])))
        if rows:
            lines += [table(("Option", "Description"), rows)]
        if isinstance(command, click.Group):
            for below in command.list_commands(context):
                lines += section(f"{name} {below}", command.get_command(context, below), level + 1)
        return lines

    return "\n".join(line for name, command in verbs() for line in section(name, command, 2))


# ---- errors


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Return the syntax tree of each file of the package."""
    return {path: ast.parse(path.read_text("utf-8")) for path in sorted((ROOT / "edgekit").rglob("*.py"))}


def name_of(node: ast.AST) -> str:
    """Return the last name of a reference, e.g. ``SamplesError`` of ``errors.SamplesError``."""
    return node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")


@functools.cache
def error_classes() -> dict[str, tuple[str, int, str]]:
    """Return the name of each error class with its base, its exit status and the first line of its docstring."""
    found: dict[str, tuple[str, int, str]] = {}
    definitions = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]

    def visit(base: str, status: int) -> None:
        for node in definitions:
            names = [name_of(b) for b in node.bases]
            if node.name == base or (base in names and node.name not in found):
                own = [
                    s.value.value
                    for s in node.body
                    if isinstance(s, ast.Assign)
                    and name_of(s.targets[0]) == "exit_code"
                    and isinstance(s.value, ast.Constant)
                ]
                if node.name == base and base != "EdgekitError":
                    continue
                number = own[0] if own else status
                found[node.name] = (names[0] if names else "", number, (ast.get_docstring(node) or "").split("\n\n")[0])
                if node.name != base:
                    visit(node.name, number)

    visit("EdgekitError", 1)
    return found


@dataclasses.dataclass(frozen=True)
class Site:
    """A place where an error is constructed.

    Attributes:
        place: File and line.
        kind: Name of the class.
        code: Literal code; None where there is none.
        message: Template of the message, with values as ``<name>``.
    """

    place: str
    kind: str
    code: str | None
    message: str


def template(node: ast.expr | None) -> str:
    """Return the text of a message expression, with what is not constant as ``<name>`` or ``...``."""
    if node is None:
        return ""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            value(part.value) if isinstance(part, ast.FormattedValue) else template(part) for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    name = name_of(node)
    if not name and isinstance(node, ast.Call) and name_of(node.func) == "install_hint" and node.args:
        return f"pip install '{distribution()}[{template(node.args[0])}]'"
    return f"<{name}>" if name else "..."


def value(node: ast.expr) -> str:
    """Return what stands for a value in a message."""
    return f"<{name_of(node.left) or '...'}>" if isinstance(node, ast.BinOp) else template(node)


def distribution() -> str:
    """Return the name of the distribution."""
    from edgekit.spec.distribution import DISTRIBUTION

    return DISTRIBUTION


def sites() -> list[Site]:
    """Return every construction of an error in the package. The one that reports click's own errors takes its code from a table."""
    result = []
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or name_of(node.func) not in error_classes():
                continue
            codes = [k.value for k in node.keywords if k.arg == "code"]
            code = codes[0].value if codes and isinstance(codes[0], ast.Constant) else None
            place = f"{path.relative_to(ROOT).as_posix()}:{node.lineno}"
            result.append(Site(place, name_of(node.func), code, template(node.args[0] if node.args else None)))
    return result


def click_codes() -> dict[str, str]:
    """Return the code of each kind of error that click finds, and what it stands for."""
    from edgekit.cli import _output

    return dict(_output.CLICK_CODES.values())


def errors() -> str:
    """Return the table of codes."""
    found: dict[str, list[Site]] = {}
    for site in sites():
        if site.code is not None:
            found.setdefault(site.code, []).append(site)
    rows = []
    for code in sorted(found.keys() | click_codes().keys()):
        kinds = sorted(
            {site.kind for site in found.get(code, [])} | ({"UsageError"} if code in click_codes() else set())
        )
        status = {error_classes()[kind][1] for kind in kinds}
        messages = dict.fromkeys(first_sentence(site.message) for site in found.get(code, []))
        texts = [m for m in messages if m.strip("<>. ")] or [click_codes().get(code, "")]
        shown = " / ".join(escape(t) for t in texts[:3])
        rows.append((f"`{code}`", ", ".join(f"`{k}`" for k in kinds), ", ".join(map(str, sorted(status))), shown))
    return table(("Code", "Class", "Exit", "What happened"), rows)


def first_sentence(text: str) -> str:
    """Return the first sentence of a message, at most 200 characters."""
    text = " ".join(text.split())
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z<])", text)[0]
    return sentence if len(sentence) <= 200 else sentence[:197] + "..."


def escape(text: str) -> str:
    """Return text that Markdown shows as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([*_\[\]`{}#])", r"\\\1", text)


def error_tree() -> str:
    """Return the table of error classes."""
    rows = [
        (f"`{name}`", f"`{base}`", str(status), prose(text))
        for name, (base, status, text) in sorted(error_classes().items(), key=lambda e: (e[1][1], e[0]))
    ]
    return table(("Class", "Base", "Exit", "Meaning"), rows)


# ---- environment variables


def variables_in_code() -> set[str]:
    """Return the names of environment variables that the package reads or writes."""
    names = set()
    for tree in trees().values():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"EDGEKIT_[A-Z_]+", node.value)
            ):
                names.add(node.value)
            key: ast.AST | None = None
            if isinstance(node, ast.Call) and node.args:
                owner = node.func.value if isinstance(node.func, ast.Attribute) else None
                if name_of(node.func) == "getenv" or (owner is not None and name_of(owner) == "environ"):
                    key = node.args[0]
            elif isinstance(node, ast.Subscript) and name_of(node.value) == "environ":
                key = node.slice
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                names.add(key.value)
    return names - PASSED_ON


def environment() -> str:
    """Return the table of environment variables."""
    rows = [(f"`{name}`", text, default) for name, (text, default) in VARIABLES.items()]
    return table(("Variable", "Meaning", "Default"), rows)


# ---- targets and dataclasses


def targets() -> str:
    """Return the table of the targets that are shipped."""
    from edgekit.spec import target

    rows = []
    for name in target.names():
        one = target.load(name)
        chosen = "build machine" if one.choose_on == "host" else "device, at first load"
        methods = ", ".join(f"`{m}`" for m in one.methods)
        rows.append((f"`{name}`", one.description, ", ".join(f"`{b}`" for b in one.backends), methods, chosen))
    return table(("Target", "Description", "Backends", "Methods", "Chosen on"), rows)


def attributes(kind: type) -> dict[str, str]:
    """Return the text of each entry of the ``Attributes`` or ``Args`` sections of a class, those of its bases among them."""
    texts: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        doc = inspect.cleandoc(one.__doc__ or "")
        section = re.search(r"^(?:Attributes|Args):\n((?:(?:[ ]+.*)?\n?)+)", doc, re.MULTILINE)
        if section is None:
            continue
        entry = ""
        names: list[str] = []
        for line in [*section.group(1).splitlines(), "    end: "]:
            start = re.match(r"    ([\w, *`]+?)(?: \([^)]*\))?: ?(.*)", line)
            if start and not line.startswith("     "):
                for name in names:
                    texts[name] = entry
                names = [name.strip(" *`") for name in start.group(1).split(",")]
                entry = start.group(2)
            else:
                entry += " " + line.strip()
    return texts


def type_name(hint: Any) -> str:
    """Return a type as TOML or Python writes it."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join(type_name(part) for part in typing.get_args(hint) if part is not type(None))
    if dataclasses.is_dataclass(hint):
        return "table"
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        inner = [type_name(p) for p in parts if p is not Ellipsis]
        return f"list of {inner[0]}"
    if origin is not None and parts:
        return "table" if "Mapping" in str(origin) or origin is dict else f"list of {type_name(parts[0])}"
    return {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}.get(
        getattr(hint, "__name__", ""), str(hint)
    )


def default_of(field: Any) -> str:
    """Return the default of a field as TOML writes it."""
    value = field.default
    if value is dataclasses.MISSING:
        if field.default_factory is dataclasses.MISSING:
            return "required"
        value = field.default_factory()
        if dataclasses.is_dataclass(value):
            return ""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`' if value else "none"
    if isinstance(value, (tuple, list)):
        return "`[" + ", ".join(f'"{v}"' if isinstance(v, str) else str(v) for v in value) + "]`"
    if not value and isinstance(value, dict):
        return "none"
    return f"`{value}`"


def dataclass_of(name: str) -> type:
    """Return the class of this name in ``edgekit.spec``, wherever it is defined there."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path, tree in trees().items()
        if path.parent.name == "spec" and any(isinstance(n, ast.ClassDef) and n.name == name for n in tree.body)
    ]
    if len(modules) != 1:
        raise ValueError(f"{name} is defined in {modules or 'no module of edgekit.spec'}, expected one module.")
    kind: type = getattr(importlib.import_module(modules[0]), name)
    return kind


def fields_of(name: str, of_file: bool = False) -> str:
    """Return the table of the fields of a dataclass, by its name, which one class of ``edgekit.spec`` has.

    Args:
        name: Name of the class.
        of_file: Whether the table is of keys of a TOML file: a field whose metadata ``key`` is False is no key of it, and
            ``hint`` is the type of the key.
    """
    kind = dataclass_of(name)
    texts, hints = attributes(kind), typing.get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if field.name.startswith("_") or field.type in ("Path", Path):
            continue
        if of_file and field.metadata.get("key") is False:
            continue
        hint = field.metadata.get("hint", hints[field.name]) if of_file else hints[field.name]
        rows.append((f"`{field.name}`", type_name(hint), default_of(field), prose(texts.get(field.name, ""))))
    return table(("Key" if of_file else "Field", "Type", "Default", "Meaning"), rows)


# ---- the Python API


def api() -> str:
    """Return the directives of the API reference: each name of ``edgekit.__all__``, functions first."""
    import edgekit

    names = [name for name in edgekit.__all__ if not name.startswith("_")]
    functions = sorted(n for n in names if n.islower() or "_" in n)
    classes = sorted(n for n in names if n not in functions and not n.endswith("Error"))
    raised = sorted(n for n in names if n.endswith("Error"))
    parts = []
    for title, group in (("Functions", functions), ("Classes", classes), ("Errors", raised)):
        parts += [f"## {title}\n"]
        parts += [f"::: edgekit.{name}\n" for name in group]
    return "\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    "cli": command_line,
    "errors": errors,
    "error classes": error_tree,
    "environment": environment,
    "targets": targets,
    "api": api,
}


def part(name: str) -> str:
    """Return the text of a generated part; ``fields CLASS`` and ``keys CLASS`` are tables of a dataclass of ``edgekit.spec``."""
    kind, _, of = name.partition(" ")
    if kind in ("fields", "keys") and of:
        return fields_of(of, of_file=kind == "keys")
    return PARTS[name]()


def rewritten(text: str) -> str:
    """Return a page with its generated parts written anew."""
    return PART.sub(lambda match: f"{match.group(1)}\n{part(match.group('name')).rstrip()}\n\n{match.group(3)}", text)


def pages() -> Iterator[tuple[Path, str, str]]:
    """Yield each page with a generated part, its text, and what it should be."""
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text("utf-8")
        if "<!-- generated: " in text:
            yield path, text, rewritten(text)


def main() -> None:
    """Rewrite the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page is out of date")
    arguments = parser.parse_args()
    stale = [(path, new) for path, old, new in pages() if old != new]
    for path, new in stale:
        print(f"{'Out of date' if arguments.check else 'Wrote'}: {path.relative_to(ROOT)}")
        if not arguments.check:
            path.write_text(new, "utf-8")
    sys.exit(1 if arguments.check and stale else 0)


if __name__ == "__main__":
    main()
