"""A task's fingerprint: a digest of everything that its prepared records are made from.

Python has no identity for "this function, as it is today", so a value is described and the description is hashed: a
user's function by its source, bytecode, defaults, bound arguments, closure and the globals that it reads; a class by
its source and methods; library code by name and the version of its distribution; an object by its class and attributes.
What can't be described so is an error that asks for the task's `version=`, never a guess.
"""

from __future__ import annotations

import builtins
import collections
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import inspect
import json
import logging
import re
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itune.data.tokenizer import Tokenizer
from itune.errors import UserError

_LONG = 200
_STDLIB = tuple(str(Path(sysconfig.get_paths()[k]).resolve()) for k in ("stdlib", "platstdlib"))
_USER, _PYTHON = "user", "python"
_IMPLICIT = frozenset({"__dict__", "__weakref__", "__doc__", "__module__", "__slots__", "__annotations__", "_abc_impl"})


def digest(description: Any) -> str:
    """sha256 (hex) of a JSON value, whatever the order of its objects' keys."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Describer:
    """Turns Python values into JSON values that are equal, across processes, when the values behave alike.

    Attributes:
      objects: descriptions of functions, classes and instances, each once, by label.
      versions: distributions whose code was met, and "python".
    """

    def __init__(self, task: str, version: str | None = None):
        self._task = task
        self._version = version
        self._labels: dict[int, str] = {}
        self._held: list[Any] = []  # id() is an identity only while the object lives
        self._used: collections.Counter[str] = collections.Counter()
        self.objects: dict[str, Any] = {}
        self.versions: dict[str, str] = {_PYTHON: f"{sys.version_info.major}.{sys.version_info.minor}"}

    def describe(self, value: Any, where: str) -> Any:
        """JSON for `value`. `where` names it in errors. Raises UserError for what can't be described."""
        for describe in (self._constant, self._container, self._library_value, self._code_value):
            found = describe(value, where)
            if found is not None:
                return found
        return self._instance(value, where)

    def _constant(self, value: Any, where: str) -> Any:
        if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex) and _plain(value):
            return repr(value)
        if isinstance(value, str) and _plain(value):
            return {"str": _shorten(value)}
        if isinstance(value, bytes | bytearray):
            return {"bytes": hashlib.sha256(value).hexdigest()}
        if isinstance(value, enum.Enum):
            return {"enum": f"{type(value).__qualname__}.{value.name}", "value": self.describe(value.value, where)}
        return None

    def _container(self, value: Any, where: str) -> Any:
        if not isinstance(value, list | tuple | dict | set | frozenset | collections.deque | types.MappingProxyType):
            return None
        if id(value) in self._labels:
            return {"see": self._labels[id(value)]}
        kind = type(value).__qualname__
        # Only mutable containers can hold themselves, and small tuples are not worth a label.
        label = None if isinstance(value, tuple | frozenset) else self._label(value, kind)
        if isinstance(value, dict | types.MappingProxyType):
            items: Any = [[self.describe(k, where), self.describe(v, f"{where}[{k!r:.40}]")] for k, v in value.items()]
        elif isinstance(value, set | frozenset):
            items = sorted((self.describe(v, where) for v in value), key=digest)
        else:
            items = [self.describe(v, f"{where}[{i}]") for i, v in enumerate(value)]
        text = json.dumps(items, sort_keys=True)
        described = {kind: items if len(text) <= 10 * _LONG else {"sha256": digest(items), "len": len(value)}}
        return described if label is None else described | {"label": label}

    def _library_value(self, value: Any, where: str) -> Any:
        """Values of libraries with an identity of their own."""
        if isinstance(value, Path):
            cwd = Path.cwd()
            return {"path": str(value.relative_to(cwd) if value.is_relative_to(cwd) else value)}
        if isinstance(value, re.Pattern):
            return {"pattern": self.describe(value.pattern, where), "flags": value.flags}
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            data = hashlib.sha256(value.tobytes()).hexdigest()
            return {"array": data, "dtype": str(value.dtype), "shape": value.shape}
        if isinstance(value, logging.Logger):
            return {"logger": value.name}
        if isinstance(value, Tokenizer):
            return {"tokenizer": value.digest}
        if type(value).__module__.startswith("tensorflow."):
            if hasattr(value, "as_numpy_dtype"):
                return {"dtype": value.name}
            if hasattr(value, "numpy") and getattr(value, "dtype", None) != "variant":
                return {"tensor": self.describe(value.numpy().tolist(), where), "dtype": str(value.dtype)}
        return None

    def _code_value(self, value: Any, where: str) -> Any:
        """Functions, classes, modules, and what wraps them."""
        if isinstance(value, types.FunctionType):
            return self._once(value, value.__code__.co_qualname, lambda: self._function(value, where))
        if isinstance(value, type):
            return self._once(value, value.__qualname__, lambda: self._class(value, where))
        if isinstance(value, functools.partial):
            described = [self.describe(part, where) for part in (value.func, value.args)]
            keywords = {k: self.describe(v, f"{where}'s argument {k!r}") for k, v in value.keywords.items()}
            return {"partial": described, "keywords": keywords}
        if isinstance(value, types.MethodType):
            return {"method": value.__name__, "of": self.describe(value.__self__, where), **self._of(value, where)}
        if isinstance(value, types.ModuleType):
            return self._module(value, where)
        if isinstance(value, staticmethod | classmethod | property | functools.cached_property):
            parts = [getattr(value, n, None) for n in ("__func__", "fget", "fset", "func")]
            return {type(value).__qualname__: [self.describe(p, where) for p in parts if p is not None]}
        if type(value).__name__ == "_lru_cache_wrapper":
            return {"cached": self.describe(value.__wrapped__, where)}
        if isinstance(value, types.BuiltinFunctionType | types.MethodDescriptorType | np.ufunc):
            return self._builtin(value, where)
        return None

    def _of(self, method: types.MethodType, where: str) -> dict[str, Any]:
        return {"function": self.describe(method.__func__, where)}

    def _function(self, function: types.FunctionType, where: str) -> Any:
        code = function.__code__
        where = f"{where}, {code.co_qualname}()"
        origin = self._origin(code.co_filename)
        described: dict[str, Any] = {"function": code.co_qualname, "from": origin}
        if origin == _USER:
            try:
                described["source_sha256"] = hashlib.sha256(inspect.getsource(code).encode()).hexdigest()
            except (OSError, TypeError):
                described["source"] = self._opaque(function, where, "its source can't be read")
            described["code_sha256"] = digest(_describe_code(code))
            described["globals"] = self._globals(function, where)
        described["defaults"] = self.describe(function.__defaults__, f"{where}'s defaults")
        described["keyword_defaults"] = self.describe(function.__kwdefaults__, f"{where}'s defaults")
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        described["closure"] = {n: self._cell(c, f"{where}'s closure variable {n!r}") for n, c in cells}
        return described

    def _cell(self, cell: types.CellType, where: str) -> Any:
        try:
            value = cell.cell_contents
        except ValueError:
            return "unset"
        return self.describe(value, where)

    def _globals(self, function: types.FunctionType, where: str) -> dict[str, Any]:
        """What the function reads from its module: constants, functions, and attributes of the user's own modules."""
        described: dict[str, Any] = {}
        # itune's own module-level objects are registries and caches: following them would tie each task to all others.
        ours = (function.__globals__.get("__name__") or "").partition(".")[0] == "itune"
        for names in sorted(set(_references(function.__code__))):
            found = _resolve(function, names)
            if found is None:
                continue
            name, value = found
            if not ours or callable(value) or isinstance(value, types.ModuleType) or _is_constant(value):
                described[name] = self.describe(value, f"{where}'s global {name!r}")
        return described

    def _class(self, cls: type, where: str) -> Any:
        origin = self._origin(_class_file(cls))
        described: dict[str, Any] = {"class": cls.__qualname__, "module": cls.__module__, "from": origin}
        if origin != _USER:
            return described
        where = f"{where}, class {cls.__qualname__}"
        try:
            described["source_sha256"] = hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()
        except (OSError, TypeError):
            described["source"] = self._opaque(cls, where, "its source can't be read")
        described["bases"] = [self.describe(base, where) for base in cls.__bases__]
        for name, value in sorted(vars(cls).items()):
            code = (types.FunctionType, staticmethod, classmethod, property, functools.cached_property)
            if name not in _IMPLICIT and not _is_generated(value) and (isinstance(value, code) or _is_constant(value)):
                described[f".{name}"] = self.describe(value, f"{where}.{name}")
        return described

    def _module(self, module: types.ModuleType, where: str) -> Any:
        origin = self._origin(getattr(module, "__file__", None) or "<frozen>")
        described = {"module": module.__name__, "from": origin}
        if origin == _USER:
            described["sha256"] = hashlib.sha256(Path(str(module.__file__)).read_bytes()).hexdigest()
        return described

    def _builtin(self, value: Any, where: str) -> Any:
        """A function in C has no source: only one that a versioned library exports under its name is known."""
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            return {"method": value.__name__, "of": self.describe(owner, where)}
        name = getattr(value, "__qualname__", value.__name__)
        module = sys.modules.get(getattr(value, "__module__", None) or "builtins")
        if isinstance(value, types.MethodDescriptorType):
            module = sys.modules.get(value.__objclass__.__module__)
        origin = self._origin(getattr(module, "__file__", None) or "<frozen>") if module else _USER
        if origin == _USER:
            return self._opaque(value, where, "a function in C, of no distribution with a version")
        return {"builtin": name, "module": getattr(module, "__name__", ""), "from": origin}

    def _instance(self, value: Any, where: str) -> Any:
        """An object of a Python class: the class and its attributes. One whose state lies in C is opaque."""
        tokenizer = getattr(value, "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):
            return {"vocabulary": type(value).__qualname__, "tokenizer": tokenizer.digest}
        bases = [base for base in type(value).__mro__ if base is not object]
        if not all((_class_file(base) or "").endswith(".py") for base in bases):
            return self._opaque(value, where, "its state can't be read from Python")
        return self._once(value, f"<{type(value).__qualname__}>", lambda: self._attributes(value, where))

    def _attributes(self, value: Any, where: str) -> Any:
        slots = [s for base in type(value).__mro__ for s in _as_tuple(base.__dict__.get("__slots__", ()))]
        names = {*getattr(value, "__dict__", {}), *(s for s in slots if hasattr(value, s))} - _IMPLICIT
        attributes = {n: self.describe(getattr(value, n), f"{where}.{n}") for n in sorted(names)}
        return {"class": self.describe(type(value), where), "attributes": attributes}

    def _opaque(self, value: Any, where: str, reason: str) -> Any:
        name = f"{type(value).__module__}.{type(value).__qualname__}"
        if self._version is not None:
            return {"opaque": name, "version": self._version}
        raise UserError(
            f"task {self._task!r}: can't tell whether {where} ({name}) has changed since it was prepared: {reason}. "
            "Give the task a version= that you change when it does"
        )

    def _once(self, value: Any, name: str, describe: Any) -> Any:
        if id(value) not in self._labels:
            label = self._label(value, name)
            self.objects[label] = None  # its place: recursion finds the label
            self.objects[label] = describe()
        return {"see": self._labels[id(value)]}

    def _label(self, value: Any, name: str) -> str:
        self._used[name] += 1
        label = f"{name}#{self._used[name]}"
        self._labels[id(value)] = label
        self._held.append(value)
        return label

    def _origin(self, filename: str | None) -> str:
        """ "user", "python", or the distribution that a file belongs to; notes the distribution's version."""
        origin = _origin(filename)
        if origin not in (_USER, _PYTHON):
            self.versions[origin] = importlib.metadata.version(origin)
        return origin


@functools.lru_cache(maxsize=4096)
def _origin(filename: str | None) -> str:
    if filename is None or filename.startswith("<frozen"):
        return _PYTHON
    path = Path(filename)
    parts = path.parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            top = parts[parts.index(folder) + 1].partition(".")[0]
            found = _distribution(top) if top != "itune" else None
            return found or _USER
    return _PYTHON if str(path.resolve()).startswith(_STDLIB) else _USER


@functools.lru_cache(maxsize=1024)
def _distribution(top: str) -> str | None:
    try:
        return importlib.metadata.distribution(top).name
    except importlib.metadata.PackageNotFoundError:
        return next(iter(_packages().get(top, ())), None)


@functools.lru_cache(maxsize=1)
def _packages() -> dict[str, list[str]]:
    return {k: sorted(v) for k, v in importlib.metadata.packages_distributions().items()}


def _class_file(cls: type) -> str | None:
    """The file that defines a class; None for one built into the interpreter."""
    module = sys.modules.get(cls.__module__)
    return getattr(module, "__file__", None)


def _plain(value: Any) -> bool:
    return type(value).__module__ == "builtins"


def _shorten(text: str) -> Any:
    if len(text) <= _LONG:
        return text
    return {"sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), "len": len(text)}


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_generated(value: Any) -> bool:
    """Whether a method was written by the dataclass decorator, which the class's source shows."""
    return isinstance(value, types.FunctionType) and inspect.unwrap(value).__code__.co_filename == "<string>"


def _is_constant(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_constant(v) for v in value)
    if isinstance(value, dict):
        return all(_is_constant(k) and _is_constant(v) for k, v in value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return bool(getattr(type(value), "__dataclass_params__").frozen)  # noqa: B009
    simple = bool | int | float | complex | str | bytes | Path | re.Pattern | enum.Enum
    return value is None or isinstance(value, simple)


def _describe_code(code: types.CodeType) -> Any:
    """Bytecode tells two lambdas on one line apart, and a source file that changed after it was imported."""
    constants = [_code_constant(c) for c in code.co_consts]
    return [code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, constants]


def _code_constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _describe_code(value)
    if isinstance(value, frozenset):
        return sorted(repr(v) for v in value)
    return repr(value)


def _references(code: types.CodeType) -> Iterator[tuple[str, ...]]:
    """Globals that a function's code reads, with the attributes looked up on them at once: ("helpers", "clean")."""
    chain: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            if chain:
                yield tuple(chain)
            chain = ["import " + instruction.argval if instruction.opname == "IMPORT_NAME" else instruction.argval]
        elif chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            chain.append(instruction.argval)
        elif chain and instruction.opname not in ("CACHE", "PRECALL"):
            yield tuple(chain)
            chain = []
    if chain:
        yield tuple(chain)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _references(constant)


def _resolve(function: types.FunctionType, names: tuple[str, ...]) -> tuple[str, Any] | None:
    """The value of ("helpers", "clean"), following attributes only through the user's own modules."""
    first, *attributes = names
    if first.startswith("import "):
        # Only what is imported already can be described; prepare has imported the task's modules by now.
        value: Any = sys.modules.get(first.removeprefix("import "))
    else:
        value = function.__globals__.get(first)
    if value is None or getattr(builtins, first, None) is value:
        return None
    name = first
    for attribute in attributes:
        if not isinstance(value, types.ModuleType) or _origin(getattr(value, "__file__", None)) != _USER:
            break
        if not hasattr(value, attribute):
            break
        name, value = f"{name}.{attribute}", getattr(value, attribute)
    return name, value


def describe_task(
    task: Any,
    *,
    info: Any,
    tokenizer: Any,
    prompt_format: str,
    variants: int,
    prepare_seed: int,
    feature_lengths: dict[str, int],
    data_files: Iterable[tuple[str, str]],
    renderer: Any,
) -> dict[str, Any]:
    """Everything that a task's records are made from; `digest` of it is the fingerprint.

    Args:
      task: a seqio.Task bound to the tokenizer.  info: its TaskInfo.  renderer: what makes spans of its rows.
      data_files: (name, sha256) of the files that its source reads.
    """
    describer = Describer(info.name, info.version)
    preprocessors = list(task.preprocessors)
    reads_lengths = any("sequence_length" in inspect.signature(p).parameters for p in preprocessors)
    features = {
        name: {f.name: repr(getattr(feature, f.name)) for f in dataclasses.fields(feature) if f.name != "vocabulary"}
        for name, feature in task.output_features.items()
    }
    described = {
        "task": info.name,
        "identity": info.identity,
        "version": info.version,
        "tokenizer": tokenizer.digest,
        "prompt_format": prompt_format,
        "variants": variants,
        "prepare_seed": prepare_seed,
        "feature_lengths": dict(sorted(feature_lengths.items())) if reads_lengths else None,
        "output_features": features,
        "templates": describer.describe(tuple(info.templates), "templates"),
        "data_files": sorted([name, sha256] for name, sha256 in data_files),
        "source": describer.describe(task.source, "source"),
        "preprocessors": [describer.describe(p, f"preprocessors[{i}]") for i, p in enumerate(preprocessors)],
        "renderer": describer.describe(renderer, "renderer"),
    }
    return described | {"objects": describer.objects, "versions": dict(sorted(describer.versions.items()))}
