"""The page's TypeScript types, written from the Python schema: bundle.py and live.py."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, JsonValue

from gossamer.show import bundle, live

_SCALARS: dict[Any, str] = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _typescript_type(annotation: Any) -> str:
    """The TypeScript of one annotation; an annotation it does not know is a TypeError, never `any`."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if annotation is JsonValue:
        return "JsonValue"
    if isinstance(annotation, type) and issubclass(annotation, bundle.BundleModel):
        return annotation.__name__
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _typescript_type(args[0])
    if origin is Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in args)
    if origin in (Union, types.UnionType):
        return " | ".join(_typescript_type(arg) for arg in args)
    if origin is tuple and args[-1] is Ellipsis:
        return f"ReadonlyArray<{_typescript_type(args[0])}>"
    if origin is tuple:
        return f"readonly [{', '.join(_typescript_type(arg) for arg in args)}]"
    if origin is dict:
        return f"{{ readonly [key: string]: {_typescript_type(args[1])} }}"
    raise TypeError(f"no TypeScript for {annotation!r}; teach gossamer.show.typescript._typescript_type about it")


def _classes() -> list[type[BaseModel]]:
    """Every class of the schema, in the order of the files."""
    base = bundle.BundleModel
    return [
        c for module in (bundle, live) for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, base) and c is not base and c.__module__ == module.__name__
    ]  # fmt: skip


def typescript() -> str:
    """The schema as a TypeScript declaration file, one interface per class, in the order they are written."""
    lines = [
        "// Written by gossamer.show.typescript.write_typescript from the Python schema. Do not edit.",
        "",
        "export type JsonValue =",
        "  string | number | boolean | null | ReadonlyArray<JsonValue> | { readonly [key: string]: JsonValue };",
    ]
    for model in _classes():
        hints = typing.get_type_hints(model, include_extras=True)
        lines += ["", f"export interface {model.__name__} {{"]
        lines += [f"  readonly {name}: {_typescript_type(hints[name])};" for name in model.model_fields]
        lines.append("}")
    return "\n".join(lines) + "\n"


def write_typescript(path: Path) -> Path:
    """Write `typescript()` to `path` (in the repository: web/src/bundle.d.ts)."""
    path.write_text(typescript(), encoding="utf-8")
    return path
