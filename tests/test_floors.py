"""Layout of the package: imports go down, and packages that devices lack stay on the upper floors."""

from __future__ import annotations

import ast
import functools
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import small

import edgekit

PACKAGE = small.ROOT / "edgekit"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES = 400

FLOORS = {
    "spec": 0,
    "stats": 1,
    "drivers": 1,
    "modalities": 1,
    "backends": 2,
    "tasks": 2,
    "machine": 3,
    "cache": 3,
    "samples": 3,
    "bundle": 4,
    "engines": 5,
    "runtime": 6,
    "timing": 7,
    "quantize": 8,
    "report": 8,
    "source": 9,
    "export": 10,
    "compress": 11,
    "search": 12,
    "builder": 13,
    "verbs": 13,
    "doctor": 14,
    "deploy": 14,
    "pytest_plugin": 14,
    "cli": 15,
    "__main__": 16,
}
DEVICE = 6  # the highest floor that a device needs
TORCH = range(9, 12)

# Third-party packages by the parts that may import them; numpy is everywhere, tokenizers where texts are.
ALLOWED = {
    "torch": {"source", "export", "compress"},
    "transformers": {"source", "export", "compress"},
    "accelerate": {"compress"},
    "huggingface_hub": {"source"},
    "safetensors": {"source", "compress"},
    "onnx": {"export", "quantize", "compress"},
    "onnx_ir": {"export", "quantize", "compress"},
    "onnxscript": {"export"},
    "onnxruntime": {"export", "quantize", "compress", "backends"},
    "openvino": {"backends"},
    "ai_edge_litert": {"backends", "quantize"},
    "flatbuffers": {"quantize"},
    "tensorrt": {"backends"},
    "tensorrt_rtx": {"backends"},
    "tensorrt_rtx_bindings": {"backends"},
    "cryptography": {"bundle"},
    "tokenizers": {"modalities", "source", "export", "compress"},
    "numpy": set(FLOORS),
    "PIL": {"modalities", "source"},
    "click": {"cli"},
    "rich": {"cli"},
    "scipy": {"report", "stats"},
    "jinja2": {"report"},
    "pytest": {"pytest_plugin"},
    "pyarrow": {"samples", "report"},
    "tomli": {"spec"},  # in place of tomllib, which starts at Python 3.11
}


class Import(NamedTuple):
    line: int
    module: str
    names: tuple[str, ...]
    level: int
    top: bool  # executed when the module is imported

    def __str__(self) -> str:
        return f"line {self.line}: {self.module} {self.names or ''}"


@functools.cache
def text(file: Path) -> str:
    return file.read_text("utf-8")


@functools.cache
def tree(file: Path) -> ast.Module:
    """Return the syntax tree of a file, which is one of Python 3.10, the oldest that devices have."""
    return ast.parse(text(file), feature_version=(3, 10))


@functools.cache
def imports_of(file: Path) -> list[Import]:
    return imports(tree(file))


def places(check, files=FILES) -> dict[str, list[str]]:
    """Return what a check of a file finds, by file; files without a finding are left out."""
    return {ids(file): wrong_places for file in files if (wrong_places := check(file))}


def part(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(module: ast.Module) -> list[Import]:
    """Return every import of a module, including those inside functions and conditions."""
    result = []

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                result.extend(Import(child.lineno, alias.name, (), 0, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                result.append(
                    Import(child.lineno, child.module or "", tuple(a.name for a in child.names), child.level, top)
                )
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            checking = (
                isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"
            )
            visit(child, top and not inside and not checking)

    visit(module, True)
    return result


def targets(item: Import) -> list[str]:
    """Return the parts of edgekit that an import reaches; ``edgekit`` for the package itself."""
    names = item.module.split(".")
    if names[0] != "edgekit":
        return []
    if len(names) > 1:
        return [names[1]]
    reached = [name if name in FLOORS else "edgekit" for name in item.names]
    return reached or ["edgekit"]


def wrong(file_part: str, module_imports: list[Import]) -> list[str]:
    """Return the imports that go up, or sideways."""
    wrong_imports = []
    for item in module_imports:
        for reached in targets(item):
            # The package itself imports the runtime, so only the command line may import it.
            floor = FLOORS["doctor"] if reached == "edgekit" else FLOORS[reached]
            if reached != file_part and floor >= FLOORS[file_part]:
                wrong_imports.append(f"{item} ({reached})")
    return wrong_imports


def ids(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_the_files_are_there():
    assert len(FILES) > 30
    assert {part(f) for f in FILES} - {"__init__"} <= set(FLOORS), (
        "a part without a floor: give it one here and in the design"
    )


def test_imports_go_down():
    files = [file for file in FILES if file != PACKAGE / "__init__.py"]
    assert places(lambda file: wrong(part(file), imports_of(file)), files) == {}


def test_the_package_brings_the_runtime_and_the_rest_only_when_it_is_asked_for():
    package_imports = imports_of(PACKAGE / "__init__.py")
    top = {reached for item in package_imports if item.top for reached in targets(item)}
    assert all(FLOORS[p] <= DEVICE for p in top)
    # What type checkers read is what is imported on first use.
    later = {(item.module, name) for item in package_imports if not item.top and targets(item) for name in item.names}
    assert later == set(edgekit._ON_FIRST_USE.values())


@pytest.mark.parametrize(
    ("file_part", "source"),
    [
        ("spec", "from edgekit.tasks import x"),
        ("spec", "import edgekit.modalities.text"),
        ("spec", "from edgekit import runtime"),
        ("tasks", "from edgekit import machine"),
        ("samples", "def f():\n    from edgekit.runtime import session"),
        ("quantize", "if x:\n    import edgekit.report.table"),
        ("search", "from edgekit import load"),
        ("runtime", "try:\n    import edgekit\nexcept ImportError:\n    pass"),
        ("engines", "class A:\n    def f(self):\n        from edgekit import spec, cli"),
    ],
)
def test_the_check_sees(file_part, source):
    module_imports = imports(ast.parse(source))
    assert wrong(file_part, module_imports)
    assert wrong("cli", module_imports) == [] or "cli" in source


def test_no_relative_import():
    assert places(lambda file: [str(item) for item in imports_of(file) if item.level]) == {}


def misplaced(file_part: str, stem: str, module_imports: list[Import]) -> list[str]:
    """Return the imports of third-party packages that a part does not have, or not there."""
    # Backend libraries and slow imports are imported where they are used, so that listing backends or commands stays fast.
    heavy = ("torch", "transformers", "accelerate", "huggingface_hub", "onnxruntime", "openvino", "ai_edge_litert")
    heavy += ("rich", "scipy")
    wrong_imports = []
    for item in module_imports:
        name = item.module.split(".")[0]
        if name in sys.stdlib_module_names or name in ("edgekit", "_typeshed"):
            continue
        if name not in ALLOWED:
            wrong_imports.append(f"{item}: not a dependency that this test knows")
        elif file_part not in ALLOWED[name]:
            wrong_imports.append(str(item))
        if item.top and (name in heavy or name.startswith("tensorrt")):
            wrong_imports.append(f"{item}: import it inside the function that needs it")
        if file_part == "backends" and name not in ("numpy", stem, f"{stem}_bindings", f"ai_edge_{stem}"):
            wrong_imports.append(f"{item}: of another backend")
    return wrong_imports


def test_third_party_packages_stay_where_they_belong():
    assert places(lambda file: misplaced(part(file), file.stem, imports_of(file))) == {}


@pytest.mark.parametrize(
    ("file_part", "source", "count"),
    [
        ("source", "def f():\n    import torch", 0),
        ("source", "import torch", 1),
        ("report", "def f():\n    import torch", 1),
        ("report", "import pandas", 1),
        ("backends", "import numpy\ndef f():\n    import openvino", 0),
        ("backends", "def f():\n    import onnxruntime", 1),
        ("backends", "import openvino", 1),
        ("spec", "import json\nfrom edgekit import spec", 0),
    ],
)
def test_a_misplaced_package_is_detected(file_part, source, count):
    assert len(misplaced(file_part, "openvino", imports(ast.parse(source)))) == count


def test_torch_is_on_its_floors_only():
    for name in ("torch", "transformers"):
        assert all(FLOORS[p] in TORCH for p in ALLOWED[name])


def test_what_devices_run_needs_nothing_of_python_3_11():
    """``tomllib`` needs 3.11, so only the reader of the build machine's files imports it."""
    users = [ids(file) for file in FILES for item in imports_of(file) if item.module == "tomllib"]
    assert users == ["spec/target.py"]
    assert not any(i.top for i in imports_of(PACKAGE / "spec/target.py") if i.module == "tomllib")
    assert all(tree(file) for file in FILES)


def test_length():
    lengths = {ids(file): len(text(file).splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


STATEMENTS = 60
"""Largest number of statements in a function."""

PARAMETERS = 7
"""Largest number of positional parameters of a function."""

CHAIN = 13
"""Largest number of modules that import each other in a row."""


def long_functions(module: ast.Module) -> list[str]:
    """Return functions with too many statements or parameters, keyword-only ones included. Fields of a dataclass do not count."""
    names = []
    for node in ast.walk(module):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        statements = sum(isinstance(child, ast.stmt) for child in ast.walk(node)) - 1
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        named += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        parameters = [one.arg for one in named if one.arg not in ("self", "cls")]
        if statements > STATEMENTS or len(parameters) > PARAMETERS:
            names.append(node.name)
    return names


def test_functions_are_short():
    assert places(lambda file: long_functions(tree(file))) == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("def f(a, b, c, d, e, f, g): pass", []),
        ("def f(self, a, b, c, d, e, f, g): pass", []),
        ("def f(a, b, c, d, e, f, g, h): pass", ["f"]),
        ("def f(a, *, b, c, d, e, f, g, h): pass", ["f"]),
        ("def f(a, b, c, d, e, f, g, **h): pass", ["f"]),
        ("class A:\n    def __init__(self, *, a, b, c, d, e, f, g, h): pass", ["__init__"]),
        ("def f():\n" + "    x = 1\n" * 60, []),
        ("def f():\n" + "    x = 1\n" * 61, ["f"]),
    ],
)
def test_a_long_function_is_detected(source, names):
    assert long_functions(ast.parse(source)) == names


def module(file: Path) -> str:
    """Return the name of a module, e.g. ``edgekit.spec.errors``."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def longest_chain(module_imports: dict[str, list[Import]]) -> list[str]:
    """Return the longest chain of modules in which each imports the next one at its import.

    Args:
        module_imports: Imports by module name.
    """
    reached: dict[str, list[str]] = {}
    for name, items in module_imports.items():
        imported = []
        for item in items:
            for member in item.names or ("",):
                if item.top:
                    full_name = f"{item.module}.{member}"
                    imported.append(full_name if full_name in module_imports else item.module)
        reached[name] = [other for other in dict.fromkeys(imported) if other in module_imports and other != name]
    chains: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in chains:
            chains[name] = [name, *max((chain(other) for other in reached[name]), key=len, default=[])]
        return chains[name]

    return max((chain(name) for name in module_imports), key=len)


def test_the_longest_chain_of_imports(capsys):
    chain = longest_chain({module(file): imports_of(file) for file in FILES})
    with capsys.disabled():
        print(f"\nlongest chain of imports, {len(chain)} modules: {' > '.join(chain)}")
    assert len(chain) <= CHAIN


def test_a_chain_is_detected():
    sources = {
        "edgekit.a": "from edgekit import b\nfrom edgekit.c import x",
        "edgekit.b": "import edgekit.c",
        "edgekit.c": "def f():\n    import edgekit.a",
    }
    module_imports = {name: imports(ast.parse(source)) for name, source in sources.items()}
    assert longest_chain(module_imports) == ["edgekit.a", "edgekit.b", "edgekit.c"]


@pytest.mark.slow
def test_every_module_has_a_docstring():
    assert [ids(file) for file in FILES if not (ast.get_docstring(tree(file)) or "").strip()] == []


def calls(file: Path, *names: str) -> list[ast.Call]:
    """Return the calls of functions of these names, as they are written."""
    last_words = {name.split(".")[-1] for name in names}
    result = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            last_word = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if last_word in last_words and ast.unparse(node.func) in names:
                result.append(node)
    return result


def test_nothing_prints_and_nothing_exits_below_the_command_line():
    files = [file for file in FILES if part(file) not in ("cli", "__main__")]
    names = ("print", "sys.exit", "exit", "quit", "os._exit")
    assert places(lambda file: [f"line {node.lineno}" for node in calls(file, *names)], files) == {}


def test_json_is_written_by_one_function():
    """``spec.parsing.to_json`` refuses NaN and infinity. Code that is sent to a device as text cannot import it."""
    writers = ("spec/parsing.py", "deploy/_there.py")
    wrong_places = []
    for file in FILES:
        for node in calls(file, "json.dumps", "json.dump"):
            strict = any(k.arg == "allow_nan" and ast.unparse(k.value) == "False" for k in node.keywords)
            if not strict or ids(file) not in writers:
                wrong_places.append(f"{ids(file)}, line {node.lineno}: use edgekit.spec.parsing.to_json")
        if "from json import" in text(file):
            wrong_places.append(f"{ids(file)}: from json import")
    assert wrong_places == []


def test_importing_the_package_brings_nothing_heavy():
    code = "import edgekit, sys; print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    heavy = [
        "torch",
        "transformers",
        "onnx",
        "onnx_ir",
        "onnxscript",
        "onnxruntime",
        "openvino",
        "ai_edge_litert",
        "flatbuffers",
        "click",
        "rich",
        "scipy",
        "tomllib",
    ]
    assert small.python(code, *heavy).stdout.decode().strip() == "[]"


def private_imports(file_part: str, module: ast.Module) -> list[str]:
    """Return the imports of a name with an underscore from another part of the package."""
    wrong_imports = []
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgekit."):
            place = (node.module or "").split(".")
            for alias in node.names:
                names = [*place[2:], alias.name] if len(place) > 2 or alias.name != "*" else []
                if place[1] != file_part and any(name.startswith("_") and not name.startswith("__") for name in names):
                    wrong_imports.append(f"line {node.lineno}: {'.'.join([*place, alias.name])}")
    return wrong_imports


def test_what_is_private_stays_in_its_part():
    assert places(lambda file: private_imports(part(file), tree(file))) == {}


@pytest.mark.parametrize(
    ("source", "wrong_imports"),
    [
        ("from edgekit.quantize._weights import levels", ["line 1: edgekit.quantize._weights.levels"]),
        ("def f():\n    from edgekit.quantize.graphs import _load", ["line 2: edgekit.quantize.graphs._load"]),
        ("from edgekit.quantize import _weights", ["line 1: edgekit.quantize._weights"]),
        ("from edgekit.search._own import x", []),
        ("from edgekit import __version__", []),
        ("from edgekit.quantize.graphs import load", []),
    ],
)
def test_a_private_import_is_detected(source, wrong_imports):
    assert private_imports("search", ast.parse(source)) == wrong_imports


def test_a_public_module_says_what_is_public():
    """It does so in ``__all__``, before its first definition."""
    silent = []
    for file in FILES:
        kinds = (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
        first = next((node for node in tree(file).body if isinstance(node, kinds)), None)
        says = isinstance(first, ast.Assign) and ast.unparse(first.targets[0]) == "__all__"
        if not says and not file.name.startswith("_"):
            silent.append(ids(file))
    assert silent == []
