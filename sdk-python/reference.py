"""Builds the reference of the API: ``python reference.py FOLDER``.

What the public classes have from private modules is shown as their own, and what the native module
makes has the types of its stubs. Fails where something public has no documentation.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
from functools import cached_property
from pathlib import Path
from typing import Literal

import pdoc.doc

import alknet_fs

PUBLIC = [m.name for m in pkgutil.iter_modules(alknet_fs.__path__) if not m.name.startswith("_")]
MODULES = ["alknet_fs", *(f"alknet_fs.{name}" for name in PUBLIC)]
NATIVE = "alknet_fs._native"
PATH = "str | bytes | os.PathLike | Path | DirEntry"

inherited_members = pdoc.doc.Class.inherited_members.func
own_members = pdoc.doc.Class.own_members.func
members = pdoc.doc.Class.members.func


def is_private(origin: tuple[str, str]) -> bool:
    """Tell whether a member comes from a private class of the package."""
    module, name = origin
    return module.startswith("alknet_fs") and (name.startswith("_") or "._" in module)


def inherited(cls: pdoc.doc.Class) -> dict[tuple[str, str], list[pdoc.doc.Doc]]:
    """Return what a class has from public classes."""
    found = inherited_members(cls).items()
    return {origin: docs for origin, docs in found if not is_private(origin)}


def own(cls: pdoc.doc.Class) -> list[pdoc.doc.Doc]:
    """Return what a class has of its own and from private classes."""
    found = list(own_members(cls))
    for origin, docs in inherited_members(cls).items():
        if is_private(origin):
            found += [doc for doc in docs if doc not in found]
    return found


class Type(str):
    """A type as the stubs write it."""

    __slots__ = ()

    __repr__ = str.__str__

    @classmethod
    def of(cls, expression: ast.expr) -> Type:
        """Write an expression of the stubs."""
        return cls(ast.unparse(expression).replace("_StrPath", PATH))


def read_stubs() -> dict[str, ast.FunctionDef]:
    """Return the functions and properties of the native classes, by class and name."""
    native = importlib.import_module(NATIVE)
    stubs = Path(native.__file__).with_name("_native.pyi")
    found = {}
    for item in ast.parse(stubs.read_text()).body:
        if isinstance(item, ast.ClassDef):
            functions = [part for part in item.body if isinstance(part, ast.FunctionDef)]
            found |= {f"{item.name}.{function.name}": function for function in functions}
        elif isinstance(item, ast.Assign) and not item.targets[0].id.startswith("_"):
            # A name for a type, which pdoc looks for in the module itself.
            exec(ast.unparse(item), {"Literal": Literal}, native.__dict__)
    return found


def typed(cls: pdoc.doc.Class) -> dict[str, pdoc.doc.Doc]:
    """Return what a class has, with the types that only the stubs know."""
    found = members(cls)
    names = [base.__name__ for base in cls.obj.__mro__ if base.__module__.startswith("alknet_fs")]
    for doc in found.values():
        native = next((f"{n}.{doc.name}" for n in names if f"{n}.{doc.name}" in stubs), None)
        if native is None:
            continue
        result = Type.of(stubs[native].returns)
        if isinstance(doc, pdoc.doc.Variable):
            doc.annotation = result
        elif not hasattr(doc.obj, "__code__"):
            args = stubs[native].args
            known = {arg.arg: arg.annotation for arg in args.args + args.kwonlyargs}
            parameters = [
                param.replace(annotation=Type.of(known[name])) if known.get(name) else param
                for name, param in doc.signature.parameters.items()
            ]
            doc.signature = doc.signature.replace(parameters=parameters, return_annotation=result)
    return found


def undocumented(namespace: pdoc.doc.Namespace) -> list[str]:
    """Return the public classes and functions that have no documentation."""
    missing = []
    for doc in namespace.own_members:
        if doc.name.startswith("_"):
            continue
        if not doc.docstring and not isinstance(doc, pdoc.doc.Variable):
            missing.append(doc.fullname)
        if isinstance(doc, pdoc.doc.Class):
            missing += undocumented(doc)
    return missing


def replace(name: str, method: object) -> None:
    """Replace a property of the classes that are documented."""
    prop = cached_property(method)  # type: ignore[arg-type]
    prop.__set_name__(pdoc.doc.Class, name)
    setattr(pdoc.doc.Class, name, prop)


stubs = read_stubs()
replace("inherited_members", inherited)
replace("own_members", own)
replace("members", typed)

missing = [name for module in MODULES for name in undocumented(pdoc.doc.Module.from_name(module))]
if missing:
    sys.exit("no documentation: " + ", ".join(missing))
pdoc.render.configure(show_source=False)
pdoc.pdoc(*MODULES, output_directory=Path(sys.argv[1]))
