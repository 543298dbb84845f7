"""Layout of the package: imports go down, and packages that devices lack stay on the upper floors."""

from __future__ import annotations

import ast
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


def part(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(source: str) -> list[Import]:
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

    visit(ast.parse(source), True)
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


def wrong(file_part: str, source: str) -> list[str]:
    """Return the imports that go up, or sideways."""
    wrong_imports = []
    for item in imports(source):
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


@pytest.mark.parametrize("file", [f for f in FILES if f != PACKAGE / "__init__.py"], ids=ids)
def test_imports_go_down(file):
    assert wrong(part(file), file.read_text("utf-8")) == []


def test_the_package_brings_the_runtime_and_the_rest_only_when_it_is_asked_for():
    package_imports = imports((PACKAGE / "__init__.py").read_text("utf-8"))
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
    assert wrong(file_part, source)
    assert wrong("cli", source) == [] or "cli" in source


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_no_relative_import(file):
    assert [str(i) for i in imports(file.read_text("utf-8")) if i.level] == []


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_third_party_packages_stay_where_they_belong(file):
    for item in imports(file.read_text("utf-8")):
        name = item.module.split(".")[0]
        if name in sys.stdlib_module_names or name in ("edgekit", "_typeshed"):
            continue
        assert name in ALLOWED, f"{item}: not a dependency that this test knows"
        assert part(file) in ALLOWED[name], str(item)
        # Backend libraries and slow imports are imported where they are used, so that listing backends or commands
        # stays fast.
        heavy = ("torch", "transformers", "accelerate", "huggingface_hub", "onnxruntime", "openvino", "rich", "scipy")
        if name in heavy or name.startswith("tensorrt"):
            assert not item.top, f"{item}: import it inside the function that needs it"
        if part(file) == "backends":
            assert name in ("numpy", file.stem, f"{file.stem}_bindings"), str(item)


def test_torch_is_on_its_floors_only():
    for name in ("torch", "transformers"):
        assert all(FLOORS[p] in TORCH for p in ALLOWED[name])


def test_what_devices_run_needs_nothing_of_python_3_11():
    """``tomllib`` needs 3.11, so only the reader of the build machine's files imports it."""
    users = [ids(f) for f in FILES for i in imports(f.read_text("utf-8")) if i.module == "tomllib"]
    assert users == ["spec/target.py"]
    assert not any(i.top for i in imports((PACKAGE / "spec/target.py").read_text("utf-8")) if i.module == "tomllib")
    for file in FILES:
        ast.parse(file.read_text("utf-8"), feature_version=(3, 10))


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_length(file):
    assert len(file.read_text("utf-8").splitlines()) <= LINES


STATEMENTS = 60
"""Largest number of statements in a function."""

PARAMETERS = 7
"""Largest number of positional parameters of a function."""

CHAIN = 13
"""Largest number of modules that import each other in a row."""


def long_functions(source: str) -> list[str]:
    """Return functions with too many statements or parameters, keyword-only ones included. Fields of a dataclass do not count."""
    names = []
    for node in ast.walk(ast.parse(source)):
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


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_functions_are_short(file):
    assert long_functions(file.read_text("utf-8")) == []


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
    assert long_functions(source) == names


def module(file: Path) -> str:
    """Return the name of a module, e.g. ``edgekit.spec.errors``."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def longest_chain(sources: dict[str, str]) -> list[str]:
    """Return the longest chain of modules in which each imports the next one at its import.

    Args:
        sources: Source by module name.
    """
    reached: dict[str, list[str]] = {}
    for name, source in sources.items():
        imported = []
        for item in imports(source):
            for member in item.names or ("",):
                if item.top:
                    full_name = f"{item.module}.{member}"
                    imported.append(full_name if full_name in sources else item.module)
        reached[name] = [other for other in dict.fromkeys(imported) if other in sources and other != name]
    chains: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in chains:
            chains[name] = [name, *max((chain(other) for other in reached[name]), key=len, default=[])]
        return chains[name]

    return max((chain(name) for name in sources), key=len)


def test_the_longest_chain_of_imports(capsys):
    chain = longest_chain({module(file): file.read_text("utf-8") for file in FILES})
    with capsys.disabled():
        print(f"\nlongest chain of imports, {len(chain)} modules: {' > '.join(chain)}")
    assert len(chain) <= CHAIN


def test_a_chain_is_detected():
    sources = {
        "edgekit.a": "from edgekit import b\nfrom edgekit.c import x",
        "edgekit.b": "import edgekit.c",
        "edgekit.c": "def f():\n    import edgekit.a",
    }
    assert longest_chain(sources) == ["edgekit.a", "edgekit.b", "edgekit.c"]


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_every_module_has_a_docstring(file):
    assert (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").strip()


def test_nothing_prints_and_nothing_exits_below_the_command_line():
    for file in FILES:
        if part(file) in ("cli", "__main__"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "sys.exit", "exit", "quit", "os._exit"), (
                    f"{ids(file)}, line {node.lineno}"
                )


def test_json_is_written_by_one_function():
    """``spec.parsing.to_json`` refuses NaN and infinity. Code that is sent to a device as text cannot import it."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.dumps", "json.dump"):
                strict = any(k.arg == "allow_nan" and ast.unparse(k.value) == "False" for k in node.keywords)
                where = f"{ids(file)}, line {node.lineno}: use edgekit.spec.parsing.to_json"
                assert strict and ids(file) in ("spec/parsing.py", "deploy/_there.py"), where
        assert "from json import" not in file.read_text("utf-8")


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
        "click",
        "rich",
        "scipy",
        "tomllib",
    ]
    assert small.python(code, *heavy).stdout.decode().strip() == "[]"


def private_imports(file_part: str, source: str) -> list[str]:
    """Return the imports of a name with an underscore from another part of the package."""
    wrong_imports = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgekit."):
            place = (node.module or "").split(".")
            for alias in node.names:
                names = [*place[2:], alias.name] if len(place) > 2 or alias.name != "*" else []
                if place[1] != file_part and any(name.startswith("_") and not name.startswith("__") for name in names):
                    wrong_imports.append(f"line {node.lineno}: {'.'.join([*place, alias.name])}")
    return wrong_imports


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_what_is_private_stays_in_its_part(file):
    assert private_imports(part(file), file.read_text("utf-8")) == []


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
    assert private_imports("search", source) == wrong_imports


@pytest.mark.parametrize("file", [f for f in FILES if not f.name.startswith("_")], ids=ids)
def test_a_public_module_says_what_is_public(file):
    """It does so in ``__all__``, before its first definition."""
    body = [
        node
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef))
    ]
    assert isinstance(body[0], ast.Assign) and ast.unparse(body[0].targets[0]) == "__all__"
