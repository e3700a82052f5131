"""What a manifest depends on: task modules, what they open as they are imported, the tokenizer, folders' listings."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from itune.data.manifest import DigestCache, InputFile, Request, list_directory
from itune.errors import UserError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_MAX_LISTED = 500


class _OpenedFiles:
    """Files that Python code opens for reading while `active`: what task modules read at import is an input, too."""

    def __init__(self) -> None:
        self.active = False
        self.paths: set[str] = set()
        sys.addaudithook(self._on_event)  # it can't be taken away again, hence `active`

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event == "open" and isinstance(arguments[0], str | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            if mode is None and flags & os.O_ACCMODE == os.O_RDONLY or mode and not set(mode) & set("wax+"):
                self.paths.add(os.path.abspath(os.fspath(arguments[0])))


def import_modules(request: Request) -> set[str]:
    """Import the task modules, from the request's directory first. Returns the files that they opened.

    Raises UserError naming the module and the error.
    """
    if request.directory not in sys.path:
        sys.path.insert(0, request.directory)
    _import_seqio()
    opened = _OpenedFiles()
    opened.active = True
    try:
        for name in request.modules:
            _import_module(name, request.directory)
        _load_asked(request)
    finally:
        opened.active = False
    return opened.paths


def _load_asked(request: Request) -> None:
    """What is registered only when it is asked for is asked for here, while files that are opened are noted."""
    from itune.data import registry

    for name in (request.mixture, *request.held_in, *request.held_out):
        with contextlib.suppress(UserError):  # told where the names are resolved
            registry.get(name)


def _import_seqio() -> None:
    """Without the lines that TensorFlow's C++ writes to stderr as it loads, unless it fails."""
    if "seqio" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module("seqio")
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    importlib.import_module("absl.logging").set_verbosity("error")


def _import_module(name: str, directory: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except UserError as error:
        raise UserError(f"module {name!r}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[: error.name.count(".") + 1] == error.name.split("."):
            raise UserError(f"DataConfig.modules: there is no module {name!r} in {directory} or installed") from error
        raise UserError(f"DataConfig.modules: importing {name!r} fails: {error}") from error
    except Exception as error:
        raise UserError(f"DataConfig.modules: importing {name!r} fails: {type(error).__name__}: {error}") from error


def manifest_inputs(request: Request, opened: set[str], digests: DigestCache) -> dict[str, InputFile]:
    """path -> InputFile: task packages, loaded project modules, what these opened at import, tokenizer, listings."""
    files = {Path(path) for path in opened if _is_input(Path(path), request)}
    folders = {Path(request.model_folder)}
    for name in request.modules:
        for folder in _package_folders(sys.modules[name]):
            inside = [p for p in folder.rglob("*") if not any(_ignored(part) for part in p.relative_to(folder).parts)]
            files.update(path for path in inside if path.is_file())
            folders.update([folder, *(path for path in inside if path.is_dir())])
        if module_file := getattr(sys.modules[name], "__file__", None):
            files.add(Path(module_file))
    for module in list(sys.modules.values()):
        path = Path(getattr(module, "__file__", None) or "/dev/null")
        if path.suffix == ".py" and path.is_relative_to(request.directory) and _is_input(path, request):
            files.add(path)
    files.update(p for n in _TOKENIZER_FILES if (p := Path(request.model_folder) / n).is_file())
    if data := os.environ.get("ITUNE_DATA_DIR"):
        # A task whose data was absent is registered once it appears.
        folders.update([root, *_subfolders(root)] if (root := Path(data).resolve()).is_dir() else [])
    inputs = [*digests.digests(sorted(files)), *(list_directory(folder) for folder in sorted(folders))]
    return {entry.path: entry for entry in inputs}


def _package_folders(module: ModuleType) -> list[Path]:
    """Where the package lies that a module is, or is in; [] for a single file."""
    if not hasattr(module, "__path__") and module.__package__:
        module = sys.modules[module.__package__]
    return [Path(p).resolve() for p in getattr(module, "__path__", ())]


def _subfolders(root: Path) -> list[Path]:
    found = (p for pattern in ("*/", "*/*/") for p in root.glob(pattern) if not _ignored(p.name))
    return [path for _, path in zip(range(_MAX_LISTED), found, strict=False)]


def _ignored(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def _is_input(path: Path, request: Request) -> bool:
    """Whether a file that was opened is the user's, and not a library's, the system's or a cache."""
    if path.suffix in (".pyc", ".so") or {"site-packages", "dist-packages", "__pycache__"} & set(path.parts):
        return False
    system = ("/proc", "/sys", "/dev", "/etc", "/usr/lib", sys.base_prefix + "/lib", request.cache)
    return not any(path.is_relative_to(folder) for folder in system) and path.is_file()
