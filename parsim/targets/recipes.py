"""What a Python function that fills a configuration says, read from its syntax tree: literals, assignments, and calls of functions whose
text is at hand.  Nothing of it runs; whatever else it does stays as it stands there, as Unresolved.
"""

from __future__ import annotations

import ast
import builtins
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from parsim.errors import ParsimError, did_you_mean
from parsim.targets.entries import Unresolved
from parsim.targets.target import Neighbours

MOST_STEPS: Final = 50_000
MOST_CALLS: Final = 25  # inside one another
MOST_ITEMS: Final = 10_000
_BINARY: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv},
    **{ast.Div: operator.truediv, ast.Mod: operator.mod},
}
_COMPARED: Final[Mapping[type, Callable[[Any, Any], bool]]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    **{ast.Is: lambda a, b: a is b or a == b, ast.IsNot: lambda a, b: not (a is b or a == b)},
    **{ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b},
}
_OF_ENVIRONMENT: Final = ("os.environ.get", "os.getenv")
_BUILT_IN: Final[Mapping[str, Callable[..., Any]]] = {each.__name__: each for each in (len, int, min, max, bool, list, str)}


class MadeObject:
    """What an object that is made there has for fields; `made_by` the call that makes it."""

    def __init__(self, made_by: str, fields: dict[str, Any]) -> None:
        self.made_by, self.fields = made_by, fields

    def __str__(self) -> str:
        return f"{self.made_by}(...)"

    __repr__ = __str__


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Reader:
    """Modules by name, each read when it is first asked for."""

    def __init__(self, text: str, name: str, beside: Neighbours = lambda path: None, opaque: Sequence[str] = ()) -> None:
        self._beside, self._steps, self.opaque = beside, 0, opaque  # functions whose calls stay as they are
        self._trees: dict[str, dict[str, Any] | None] = {"": _names(text, name)}

    def functions(self) -> tuple[str, ...]:
        """Those of the file that take no argument that must be given, in order."""
        own = self._trees[""] or {}
        free = (name for name, node in own.items() if isinstance(node, ast.FunctionDef) and _is_free(node))
        return tuple(name for name in free if not name.startswith("_"))

    def call(self, name: str) -> Any:
        """What a function of the file gives.

        Raises:
            ParsimError: it is not there, or does too much.
        """
        node = (self._trees[""] or {}).get(name)
        if isinstance(node, tuple):
            return self._of_module(*node)
        if not isinstance(node, ast.FunctionDef):
            known = self.functions()
            raise ParsimError(f"no function '{name}'{did_you_mean(name, known)}", remedy=f"There are: {', '.join(known[:40])}.")
        return self.run(node, "", [], {}, 0)

    def _of_module(self, module: str, name: str) -> Any:
        where, node = self.find(module, name) or ("", None)
        return self.run(node, where, [], {}, 0) if isinstance(node, ast.FunctionDef) else None

    def find(self, module: str, name: str) -> tuple[str, Any] | None:
        """Where a name is defined, through what modules import of one another."""
        for _ in range(10):
            names = self._module(module)
            if names is None or name not in names:
                return None
            if not isinstance(node := names[name], tuple):
                return module, node
            module, name = node
        return None

    def _module(self, module: str) -> dict[str, Any] | None:
        if module not in self._trees:
            path = module.replace(".", "/")
            text = next((text for end in (".py", "/__init__.py") if (text := self._beside(path + end)) is not None), None)
            self._trees[module] = _names(text, path) if text is not None else None
        return self._trees[module]

    def run(self, node: ast.FunctionDef, module: str, args: Sequence[Any], named: Mapping[str, Any], depth: int) -> Any:
        """What a call of a function of a module gives."""
        if depth > MOST_CALLS:
            return Unresolved(node.name)
        scope = _Scope(self, module, depth)
        places = [each.arg for each in (*node.args.posonlyargs, *node.args.args)]
        defaults = dict(zip(reversed(places), reversed(node.args.defaults), strict=False))
        defaults |= {each.arg: value for each, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value is not None}
        scope.own = {name: scope.value(value) for name, value in defaults.items()} | dict(zip(places, args, strict=False))
        known = {*places, *(each.arg for each in node.args.kwonlyargs)}
        scope.own |= {name: value for name, value in named.items() if name in known}
        if node.args.kwarg:
            scope.own[node.args.kwarg.arg] = {name: value for name, value in named.items() if name not in known}
        try:
            scope.run(node.body)
        except _Return as found:
            return found.value
        return None

    def step(self) -> None:
        """Count a step.

        Raises:
            ParsimError: there are too many.
        """
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise ParsimError(f"it does more than {MOST_STEPS} steps", remedy="Give a recipe that assigns what it says.")


class _Scope:
    def __init__(self, reader: Reader, module: str, depth: int) -> None:
        self.reader, self.module, self.depth = reader, module, depth
        self.own: dict[str, Any] = {}

    def run(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            self.reader.step()
            match node:
                case ast.Return():
                    raise _Return(self.value(node.value) if node.value else None)
                case ast.Assign():
                    value = self.value(node.value)
                    for target in node.targets:
                        self.assign(target, value)
                case ast.AnnAssign() if node.value:
                    self.assign(node.target, self.value(node.value))
                case ast.AugAssign():
                    self.assign(node.target, self.value(ast.BinOp(_as_value(node.target), node.op, node.value)))
                case ast.If():
                    self.branch(node)
                case ast.For():
                    self.loop(node)
                case ast.While() | ast.Match():
                    self.forget(node)
                case ast.With() | ast.Try():
                    self.run(node.body)
                case ast.Expr():
                    self.value(node.value)
                case ast.FunctionDef():
                    self.own[node.name] = node
                case ast.Raise():
                    raise _Return(Unresolved(ast.unparse(node)))
                case _:
                    pass

    def branch(self, node: ast.If) -> None:
        """The branch that is taken; of a test that nobody knows neither, and what either would assign is not known."""
        test = self.value(node.test)
        if not isinstance(test, Unresolved | MadeObject):
            self.run(node.body if test else node.orelse)
            return
        if _is_of_class(test):
            self.run(node.body)
            return
        self.forget(node, f" if {ast.unparse(node.test)}")

    def forget(self, node: ast.stmt, when: str = " in a loop or a case") -> None:
        """What statements within would assign is not known."""
        for each in ast.walk(node):
            if isinstance(each, ast.Assign | ast.AugAssign | ast.AnnAssign) and each.value:
                for target in each.targets if isinstance(each, ast.Assign) else (each.target,):
                    self.assign(target, Unresolved(f"{ast.unparse(each.value)}{when}"))

    def loop(self, node: ast.For) -> None:
        items = self.value(node.iter)
        if not isinstance(items, list | tuple) or len(items) > MOST_ITEMS:
            self.forget(node)
            return
        for item in items:
            self.assign(node.target, item)
            self.run(node.body)

    def assign(self, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name():
                self.own[target.id] = value
            case ast.Attribute():
                if isinstance(inner := self.holder(target.value), MadeObject):
                    inner.fields[target.attr] = value
            case ast.Subscript():
                inner, key = self.value(target.value), self.value(target.slice)
                if isinstance(inner, dict) and isinstance(key, str | int | tuple):
                    inner[key] = value
            case ast.Tuple() | ast.List():
                parts = value if isinstance(value, list | tuple) and len(value) == len(target.elts) else None
                for n, each in enumerate(target.elts):
                    self.assign(each, parts[n] if parts else Unresolved(str(value)))
            case _:
                pass

    def holder(self, node: ast.expr) -> Any:
        """What a field is set of, which is made where nobody said it before."""
        if isinstance(node, ast.Attribute) and isinstance(outer := self.holder(node.value), MadeObject):
            inner = outer.fields.get(node.attr)
            if isinstance(inner, str) and not isinstance(inner, Unresolved):
                inner = MadeObject(inner, {})  # a name for what has fields, such as that of a mixed precision
            outer.fields[node.attr] = inner = inner if isinstance(inner, MadeObject) else MadeObject("", {})
            return inner
        return self.value(node)

    def value(self, node: ast.expr) -> Any:
        """What an expression is; as it stands there, where that is not known."""
        self.reader.step()
        try:
            found = self._value(node)
        except (TypeError, ValueError, KeyError, IndexError, ZeroDivisionError, AttributeError, OverflowError):
            return Unresolved(ast.unparse(node))
        sized = isinstance(found, list | tuple | str) and len(found) > MOST_ITEMS
        return Unresolved(ast.unparse(node)) if sized or (type(found) is int and abs(found) > 10**18) else found

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.name(node.id)
            case ast.Attribute():
                return self.attribute(node)
            case ast.Call():
                return self.call(node)
            case ast.List() | ast.Tuple() | ast.Set():
                items = [self.value(each) for each in node.elts if not isinstance(each, ast.Starred)]
                return tuple(items) if isinstance(node, ast.Tuple) else items
            case ast.Dict():
                return self.mapping(node)
            case ast.UnaryOp():
                inner = _require(self.value(node.operand))
                return not inner if isinstance(node.op, ast.Not) else -inner if isinstance(node.op, ast.USub) else inner
            case ast.BinOp():
                left, right = _require(self.value(node.left)), _require(self.value(node.right))
                many = isinstance(left, list | str | tuple) or isinstance(right, list | str | tuple)
                if isinstance(node.op, ast.Mult) and many and min(_size(left), MOST_ITEMS) * min(_size(right), MOST_ITEMS) > MOST_ITEMS:
                    raise ValueError
                return _BINARY[type(node.op)](left, right)
            case ast.BoolOp():
                return self.either(node)
            case ast.Compare() if len(node.ops) == 1:
                return _compare(node.ops[0], self.value(node.left), self.value(node.comparators[0]))
            case ast.IfExp():
                return self.value(node.body if _require(self.value(node.test)) else node.orelse)
            case ast.Subscript():
                return _require(self.value(node.value))[_require(self.value(node.slice))]
            case ast.JoinedStr():
                parts = (each.value if isinstance(each, ast.FormattedValue) else each for each in node.values)
                return "".join(str(_require(self.value(each))) for each in parts)
            case _:
                raise ValueError

    def either(self, node: ast.BoolOp) -> Any:
        found: Any = None
        for each in node.values:
            found = _require(self.value(each))
            if bool(found) == isinstance(node.op, ast.Or):
                return found
        return found

    def mapping(self, node: ast.Dict) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, each in zip(node.keys, node.values, strict=True):
            value = self.value(each)
            found |= {self.value(key): value} if key else value if isinstance(value, dict) else {}
        return found

    def name(self, name: str) -> Any:
        if name in self.own:
            return self.own[name]
        found = self.reader.find(self.module, name)
        if found and isinstance(found[1], ast.expr):
            return _Scope(self.reader, found[0], self.depth + 1).value(found[1]) if self.depth < MOST_CALLS else Unresolved(name)
        return Unresolved(name)

    def attribute(self, node: ast.Attribute) -> Any:
        inner = self.value(node.value)
        if isinstance(inner, MadeObject):
            return inner.fields.get(node.attr, Unresolved(ast.unparse(node)))
        return Unresolved(ast.unparse(node))

    def call(self, node: ast.Call) -> Any:
        args = [self.value(each) for each in node.args if not isinstance(each, ast.Starred)]
        named: dict[str, Any] = {}
        for each in node.keywords:
            value = self.value(each.value)
            named |= {each.arg: value} if each.arg else value if isinstance(value, dict) else {}
        said = ast.unparse(node.func)
        if isinstance(node.func, ast.Name):
            if said == "setattr" and len(args) == 3 and isinstance(args[0], MadeObject):
                args[0].fields[str(args[1])] = args[2]
                return None
            if said == "isinstance" and len(args) == 2:
                return _is_instance(args[0], ast.unparse(node.args[1]))
            if said == "cast" and len(args) == 2:
                return args[1]
            if said in self.reader.opaque:
                return MadeObject(said, {"": args, **named})
            if said in _BUILT_IN:
                return _BUILT_IN[said](*map(_require, args), **named)
            if isinstance(own := self.own.get(said), ast.FunctionDef):
                return self.reader.run(own, self.module, args, named, self.depth + 1)
            if (found := self.reader.find(self.module, said)) and isinstance(found[1], ast.FunctionDef):
                return self.reader.run(found[1], found[0], args, named, self.depth + 1)
        elif said in _OF_ENVIRONMENT and len(args) == 2:
            return args[1]  # what it is where nobody sets the variable
        elif isinstance(node.func, ast.Attribute) and isinstance(inner := self.value(node.func.value), MadeObject):
            return MadeObject(f"{inner.made_by}.{node.func.attr}", dict(inner.fields))
        elif isinstance(node.func, ast.Attribute) and isinstance(inner, dict) and node.func.attr == "get":
            return inner.get(*args)
        elif isinstance(node.func, ast.Attribute) and isinstance(inner, str) and node.func.attr == "lower":
            return _require(inner).lower()
        return MadeObject(said, {**({"": args} if args else {}), **named})


def _names(text: str, name: str) -> dict[str, Any]:
    """The functions, values, and imports (module and name) of a module, by name."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ParsimError(f"it is no Python: {error or 'nested too deep'}", name) from None
    found: dict[str, Any] = {}
    for node in tree.body:
        match node:
            case ast.FunctionDef():
                found[node.name] = node
            case ast.Assign():
                found |= {each.id: node.value for each in node.targets if isinstance(each, ast.Name)}
            case ast.AnnAssign(target=ast.Name(), value=ast.expr()):
                found[node.target.id] = node.value  # type: ignore[union-attr]
            case ast.ImportFrom() if node.module and not node.level:
                found |= {each.asname or each.name: (node.module, each.name) for each in node.names}
            case _:
                pass
    return found


def _is_free(node: ast.FunctionDef) -> bool:
    needed = len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)
    return needed == 0 and all(value is not None for value in node.args.kw_defaults)


def _require(value: Any) -> Any:
    """A value that is known.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, Unresolved | MadeObject):
        raise ValueError(value)
    return value


def _is_of_class(value: Any) -> bool:
    return isinstance(value, MadeObject) and value.made_by[:1].isupper()  # what a function gives is not known


def _is_instance(value: Any, kind: str) -> bool:
    known = _is_of_class(value) and (kind in vars(builtins) or kind == value.made_by)
    return bool(kind == (value.made_by if known else type(_require(value)).__name__))


def _compare(how: ast.cmpop, left: Any, right: Any) -> bool:
    if right is None and isinstance(how, ast.Is | ast.IsNot) and _is_of_class(left):
        return isinstance(how, ast.IsNot)
    return _COMPARED[type(how)](_require(left), _require(right))


def _size(value: Any) -> int:
    return len(value) if isinstance(value, list | str | tuple) else value if isinstance(value, int) else 1


def _as_value(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body


def flat(record: MadeObject, prefix: str = "", within: tuple[MadeObject, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Dotted names and values of all fields of a record; one that holds itself, or more than five levels, is named by what makes it."""
    for name, value in record.fields.items():
        if isinstance(value, MadeObject) and (value in (*within, record) or len(within) == 4):
            yield f"{prefix}{name}", Unresolved(value.made_by)
        elif isinstance(value, MadeObject):
            yield from flat(value, f"{prefix}{name}.", (*within, record))
        elif name:
            yield f"{prefix}{name}", value
