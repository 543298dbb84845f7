"""What a piece of EdgeKit uses of TensorRT, read off its source: which attributes of which class, in calls with how many arguments.

A receiver's class is known by what its variable is called (``engine``, ``self._engine``), by what made it (``trt.Runtime(log)``), or by
the method that returned it. What is behind ``is_rtx(trt)`` is for TensorRT-RTX alone, and so is a function that is called from there alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

RECEIVERS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "inspector": "EngineInspector",
    "error": "ParserError",
    "cache": "ITimingCache",
}
MODULE = "trt"
BOTH = frozenset({"tensorrt", "rtx"})


@dataclass(frozen=True)
class Use:
    """One attribute that is used.

    Attributes:
        owner: class; empty for the module itself.
        kind: ``read``, ``set`` or ``call``; ``override`` for a method of a subclass, ``base`` for its call of the base class's ``__init__``.
        worlds: ``tensorrt`` and ``rtx``, or one of them.
        optional: reached through ``getattr`` or behind ``hasattr``.
        arguments: positional ones of a call or an override; None where they cannot be counted.
        keywords: of a call.
    """

    file: str
    line: int
    owner: str
    name: str
    kind: str
    worlds: frozenset[str] = BOTH
    optional: bool = False
    arguments: int | None = None
    keywords: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.owner or MODULE}.{self.name}"


def collect(sources: Mapping[str, str], returns: Mapping[tuple[str, str], str]) -> list[Use]:
    """All uses in some files.

    Args:
        sources: text by file name.
        returns: class that a method returns, by class and method.
    """
    trees = {name: ast.parse(text) for name, text in sources.items()}
    worlds: dict[str, frozenset[str]] = {}
    for _ in range(3):  # a function called by a function that is called for one library alone
        visitors = [_Visitor(name, returns, worlds) for name in trees]
        for visitor in visitors:
            visitor.block(trees[visitor.file].body, _Scope(_world(visitor.file)))
        called: dict[str, frozenset[str]] = {}
        for visitor in visitors:
            for function, world in visitor.calls:
                called[function] = called.get(function, frozenset()) | world
        worlds = called
    return [use for visitor in visitors for use in visitor.uses]


def _world(file: str) -> frozenset[str]:
    return {"tensorrt.py": frozenset({"tensorrt"}), "tensorrt_rtx.py": frozenset({"rtx"})}.get(
        file.rpartition("/")[2], BOTH
    )


@dataclass
class _Scope:
    """What is known at a place: for which library it is, and what local names are."""

    worlds: frozenset[str]
    names: dict[str, str | None] = field(default_factory=dict)
    asked: frozenset[tuple[str, str]] = frozenset()


class _Visitor:
    def __init__(self, file: str, returns: Mapping[tuple[str, str], str], worlds: Mapping[str, frozenset[str]]) -> None:
        self.file, self._returns, self._worlds = file, returns, worlds
        self.uses: list[Use] = []
        self.calls: list[tuple[str, frozenset[str]]] = []

    # ---- statements

    def block(self, body: Iterable[ast.stmt], scope: _Scope) -> None:
        for statement in body:
            self._statement(statement, scope)
            if isinstance(statement, ast.If) and isinstance(statement.body[-1], (ast.Return, ast.Raise)):
                scope = replace(scope, worlds=scope.worlds & _otherwise(statement.test))

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            self._function(node, scope)
        elif isinstance(node, ast.ClassDef):
            self._class(node, scope)
        elif isinstance(node, ast.If):
            self._expression(node.test, scope)
            self.block(node.body, replace(scope, worlds=scope.worlds & _when(node.test)))
            self.block(node.orelse, replace(scope, worlds=scope.worlds & _otherwise(node.test)))
        else:
            for expression in _expressions(node):
                self._expression(expression, scope)
            for name, kind in self._bound(node, scope):
                scope.names[name] = kind
            for body in _bodies(node):
                self.block(body, scope)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: _Scope) -> None:
        names = dict(scope.names)
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            told = ast.unparse(argument.annotation) if argument.annotation else "Any"
            if told != "Any":
                names[argument.arg] = None  # a class of EdgeKit's
        asked = frozenset(
            (self._owner(call.args[0], scope) or "", call.args[1].value)
            for call in ast.walk(node)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "hasattr"
            and isinstance(call.args[1], ast.Constant)
        )
        worlds = scope.worlds & self._worlds.get(node.name, BOTH)
        self.block(node.body, _Scope(worlds, names, asked))

    def _class(self, node: ast.ClassDef, scope: _Scope) -> None:
        for base in node.bases:
            self._expression(base, scope)
            owner = base.attr if isinstance(base, ast.Attribute) and self._owner(base.value, scope) == MODULE else None
            if owner is None:
                continue
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    self._use(method, owner, method.name, "override", scope, arguments=len(method.args.args) - 1)
            methods = {method.name: method for method in node.body if isinstance(method, ast.FunctionDef)}
            made = ast.unparse(methods["__init__"]) if "__init__" in methods else "super().__init__()"
            if f"{ast.unparse(base)}.__init__(self)" in made or "super().__init__()" in made:
                self._use(node, owner, "__init__", "base", scope)
        self.block(node.body, scope)

    def _bound(self, node: ast.stmt, scope: _Scope) -> Iterator[tuple[str, str | None]]:
        """Names that a statement gives a value, with its class: None for one that is not TensorRT's."""
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            kind, value = self._owner(node.value, scope), node.value
            ours = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id[0].isupper()
            if (
                kind is not None
                or ours
                or isinstance(value, (ast.Constant, ast.List, ast.Dict, ast.ListComp, ast.DictComp))
            ):
                yield node.targets[0].id, kind
        elif isinstance(node, (ast.For, ast.AsyncFor)):
            for name in ast.walk(node.target):
                if isinstance(name, ast.Name):
                    yield name.id, None

    # ---- expressions

    def _expression(self, node: ast.AST, scope: _Scope) -> None:
        if isinstance(node, ast.IfExp):
            self._expression(node.test, scope)
            self._expression(node.body, replace(scope, worlds=scope.worlds & _when(node.test)))
            self._expression(node.orelse, replace(scope, worlds=scope.worlds & _otherwise(node.test)))
            return
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
            for value in node.values:
                self._expression(value, scope)
                scope = replace(scope, worlds=scope.worlds & _when(value))
            return
        if isinstance(node, ast.Call):
            self._call(node, scope)
            return
        if isinstance(node, ast.Attribute):
            self._attribute(node, scope, "set" if isinstance(node.ctx, ast.Store) else "read")
        for child in ast.iter_child_nodes(node):
            self._expression(child, scope)

    def _call(self, node: ast.Call, scope: _Scope) -> None:
        if isinstance(node.func, ast.Name):
            self.calls.append((node.func.id, scope.worlds))
            if (
                node.func.id == "getattr"
                and isinstance(node.args[1], ast.Constant)
                and (owner := self._owner(node.args[0], scope))
            ):
                self._use(
                    node,
                    "" if owner == MODULE else owner,
                    node.args[1].value,
                    "read",
                    replace(scope, asked=frozenset({(owner, node.args[1].value)})),
                )
        if isinstance(node.func, ast.Attribute):
            counted = not any(isinstance(argument, ast.Starred) for argument in node.args) and all(
                keyword.arg for keyword in node.keywords
            )
            given = {
                "arguments": len(node.args) if counted else None,
                "keywords": tuple(str(keyword.arg) for keyword in node.keywords),
            }
            self._attribute(node.func, scope, "call", **given)
        for child in (
            node.func.value if isinstance(node.func, ast.Attribute) else node.func,
            *node.args,
            *(keyword.value for keyword in node.keywords),
        ):
            self._expression(child, scope)

    def _attribute(self, node: ast.Attribute, scope: _Scope, kind: str, **given: Any) -> None:
        owner = self._owner(node.value, scope)
        if owner is not None and not node.attr.startswith("_"):
            self._use(node, "" if owner == MODULE else owner, node.attr, kind, scope, **given)

    def _use(self, node: Any, owner: str, name: str, kind: str, scope: _Scope, **given: Any) -> None:
        optional = (owner or MODULE, name) in scope.asked
        self.uses.append(Use(self.file, node.lineno, owner, name, kind, scope.worlds, optional, **given))

    def _owner(self, node: ast.AST, scope: _Scope) -> str | None:
        """The class of an expression's value; ``trt`` for the module; None for anything else."""
        if isinstance(node, ast.Name):
            return MODULE if node.id == MODULE else scope.names.get(node.id, RECEIVERS.get(node.id))
        if isinstance(node, ast.Attribute):
            owner = self._owner(node.value, scope)
            if owner == MODULE:
                return node.attr
            if owner is not None or node.attr.lstrip("_") == MODULE:
                return MODULE if owner is None else None
            ours = isinstance(node.value, ast.Name) and node.value.id in scope.names  # target.engine is EdgeKit's
            return None if ours else RECEIVERS.get(node.attr.lstrip("_"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = self._owner(node.func.value, scope)
            return node.func.attr if owner == MODULE else self._returns.get((owner, node.func.attr)) if owner else None
        if isinstance(node, ast.NamedExpr):
            return self._owner(node.value, scope)
        return None


def _expressions(node: ast.stmt) -> list[ast.expr]:
    return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)] + [
        part
        for item in getattr(node, "items", [])
        for part in (item.context_expr, item.optional_vars)
        if part is not None
    ]


def _bodies(node: ast.stmt) -> list[list[ast.stmt]]:
    found = [
        getattr(node, name) for name in ("body", "orelse", "finalbody") if isinstance(getattr(node, name, None), list)
    ]
    return found + [handler.body for handler in getattr(node, "handlers", [])]


def _when(test: ast.AST) -> frozenset[str]:
    """For which library a condition can be true."""
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "is_rtx":
        return frozenset({"rtx"})
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _otherwise(test.operand)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return frozenset.intersection(*map(_when, test.values))
    return BOTH


def _otherwise(test: ast.AST) -> frozenset[str]:
    """For which library it can be false."""
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "is_rtx":
        return frozenset({"tensorrt"})
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _when(test.operand)
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        return frozenset.intersection(*map(_otherwise, test.values))
    return BOTH
