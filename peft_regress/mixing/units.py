"""The units of a module: its functions, defaults of parameters, fields and constants.

A unit has a name: `C.forward`, `C.forward(scale)` for the default of a parameter, `C.FIELD` or
`NAME`. Two units are equal if their syntax trees are, without docstrings. Pure: no files.
"""

import ast
import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class _Place(NamedTuple):
    """A statement that binds a name, and the statements among which it stands."""

    node: ast.stmt
    body: list[ast.stmt]

    @property
    def is_function(self) -> bool:
        return isinstance(self.node, _Function)


class Module:
    """The source of a module, by the names that it binds at its top and in its classes."""

    def __init__(self, source: str) -> None:
        """Parse a source. Raises `SyntaxError`."""
        self.source = source
        self.tree = ast.parse(source)
        self.places: dict[str, _Place] = dict(_bound_below(self.tree.body, ""))

    def lines(self, name: str) -> tuple[int, int] | None:
        """Return the first and last line of a unit; None if the module lacks it."""
        place = self.places.get(name.partition("(")[0])
        if place is None:
            return None
        decorators = getattr(place.node, "decorator_list", [])
        first = min(node.lineno for node in (place.node, *decorators))
        return first, place.node.end_lineno or first

    def segment(self, name: str) -> list[str]:
        """Return the lines of a unit; [] if the module lacks it."""
        lines = self.lines(name)
        first, last = (1, 0) if lines is None else lines
        return self.source.splitlines(keepends=True)[first - 1 : last]

    def used_by(self, name: str) -> tuple[set[str], set[str]]:
        """Return the global names, and the attributes, that a unit may use."""
        node = self.places[name.partition("(")[0]].node
        if isinstance(node, ast.Import | ast.ImportFrom):
            return set(), {alias.name for alias in node.names}
        below = list(ast.walk(node))
        names = {one.id for one in below if isinstance(one, ast.Name)}
        return names, {one.attr for one in below if isinstance(one, ast.Attribute)}


def changed_units(old: Module, new: Module) -> list[str]:
    """Return the names of the units that differ between two releases of a module.

    What only one of them has counts if it is a method of a class that both have; another function
    belongs to whoever calls it. A function whose defaults alone differ is these defaults.
    """
    found = []
    for name in [*old.places, *(name for name in new.places if name not in old.places)]:
        sides = [module.places.get(name) for module in (old, new)]
        one, other = sides
        if one is None or other is None:
            place, owner = one or other, name.rpartition(".")[0]
            if owner in old.places and owner in new.places and place and place.is_function:
                found.append(name)
        elif isinstance(one.node, _Function) and isinstance(other.node, _Function):
            defaults = _changed_defaults(one.node, other.node)
            found += [f"{name}({parameter})" for parameter in defaults]
            if _shape(one.node, without=defaults) != _shape(other.node, without=defaults):
                found.append(name)
        elif isinstance(one.node, ast.ClassDef | ast.Import | ast.ImportFrom):
            continue
        elif _shape(one.node) != _shape(other.node):
            found.append(name)
    return found


def mixed(target: Module, donor: Module, names: Sequence[str]) -> ast.Module:
    """Return the tree of a module with the units of these names as the donor has them.

    Each node keeps the line that it has in its own file. What the donor lacks is taken out, what
    the target lacks is put where the donor has it.
    """
    ours = copy.deepcopy(target)
    order = {name: at for at, name in enumerate(donor.places)}
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        function, _, parameter = name.partition("(")
        here, there = ours.places.get(function), donor.places.get(function)
        if parameter and here and there and function not in names:
            _set_default(here.node, parameter.removesuffix(")"), there.node)
        elif here and there:
            here.body[here.body.index(here.node)] = there.node
            ours.places[name] = _Place(there.node, here.body)
        elif there:
            _insert(ours, donor, name)
        elif here:
            here.body[here.body.index(here.node)] = ast.copy_location(ast.Pass(), here.node)
    return ours.tree


def _bound_below(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, _Place]]:
    """Yield the names that some statements bind; a name that is bound again gets a number."""
    seen: dict[str, int] = {}
    for node, holder in _statements(body):
        for name in _bound(node):
            seen[name] = seen.get(name, 0) + 1
            again = f"#{seen[name]}" if seen[name] > 1 else ""
            yield f"{prefix}{name}{again}", _Place(node, holder)
            if isinstance(node, ast.ClassDef):
                yield from _bound_below(node.body, f"{prefix}{name}{again}.")


def _statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, list[ast.stmt]]]:
    """Yield each statement, also of branches, with the list that holds it."""
    for node in body:
        yield node, body
        if isinstance(node, ast.If | ast.Try | ast.With):
            handlers = [one.body for one in getattr(node, "handlers", [])]
            for inner in (node.body, *handlers, getattr(node, "orelse", [])):
                yield from _statements(inner)


def _bound(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Import() | ast.ImportFrom():
            return [(one.asname or one.name).partition(".")[0] for one in node.names]
        case ast.Assign(targets=targets):
            return [one.id for one in targets if isinstance(one, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _shape(node: ast.stmt, without: Sequence[str] = ()) -> str:
    """Return the syntax of a statement without docstrings and some defaults."""
    plain = copy.deepcopy(node)
    for one in ast.walk(plain):
        if isinstance(one, _Function | ast.ClassDef) and ast.get_docstring(one, clean=False):
            one.body = one.body[1:]
    for name in without:
        _set_default(plain, name, None)
    return ast.dump(plain)


def _defaults(node: _Function) -> dict[str, tuple[list[Any], int]]:
    """Return of each parameter with a default the list that holds it, and where."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    with_default = positional[len(positional) - len(arguments.defaults) :]
    found: dict[str, tuple[list[Any], int]] = {}
    found |= {one.arg: (arguments.defaults, at) for at, one in enumerate(with_default)}
    for at, one in enumerate(arguments.kwonlyargs):
        if arguments.kw_defaults[at] is not None:
            found[one.arg] = arguments.kw_defaults, at
    return found


def _changed_defaults(old: _Function, new: _Function) -> list[str]:
    texts = [
        {name: ast.dump(values[at]) for name, (values, at) in _defaults(side).items()}
        for side in (old, new)
    ]
    return [name for name, text in texts[0].items() if texts[1].get(name, text) != text]


def _set_default(node: Any, parameter: str, other: Any) -> None:
    values, at = _defaults(node)[parameter]
    theirs, there = _defaults(other)[parameter] if other else ([ast.Constant(None)], 0)
    values[at] = theirs[there]


def _insert(ours: Module, donor: Module, name: str) -> None:
    """Put what only the donor binds behind what stands before it there."""
    owner = name.rpartition(".")[0]
    siblings = [one for one in donor.places if one.rpartition(".")[0] == owner]
    before = [one for one in siblings[: siblings.index(name)] if one in ours.places]
    node = _alone(donor.places[name].node, name)
    if before:
        body = ours.places[before[-1]].body
        at = body.index(ours.places[before[-1]].node) + 1
    elif owner in ours.places:
        body, at = ours.places[owner].node.body, 0  # type: ignore[attr-defined]  # a class
    else:
        body, at = ours.tree.body, len(ours.tree.body)
    body.insert(at, node)
    ours.places[name] = _Place(node, body)


def _alone(node: ast.stmt, name: str) -> ast.stmt:
    """Return an import of one name where a statement imports several."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return node
    one = copy.copy(node)
    at = _bound(node).index(name.partition("#")[0])
    one.names = node.names[at : at + 1]
    return one
