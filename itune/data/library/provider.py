"""Folders of declarations, made known without reading them. Imports neither SeqIO nor TensorFlow."""

from __future__ import annotations

import functools
from pathlib import Path

from itune.data import lazy
from itune.data.library.declaration import load_declaration
from itune.errors import UserError

COLLECTION = "library"


def provide_library(folder: str | Path, *, derived: str = "") -> dict[str, Path]:
    """Makes the tasks of every declaration below `folder` (*/NAME.yaml) known; each is read when it is asked for.

    derived: see `declare`. Returns the files by the names of their data sets.
    Raises: UserError where two files have the same name.
    """
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).glob("*/*.yaml")):
        if path.stem in found:
            raise UserError(f"{path}: there is {found[path.stem]} too; a data set is declared once")
        found[path.stem] = path
        lazy.provide([path.stem], functools.partial(_declare, path, derived), functools.partial(_describe, path))
    return found


def _describe(path: Path) -> list[lazy.Summary]:
    d = load_declaration(path)
    return [
        lazy.Summary(
            name=f"{d.name}/{variant}",
            cluster=d.cluster,
            licence=d.licence,
            collection=COLLECTION,
            identity=d.identity,
            description=d.description,
            examples=dict(d.published_rows).get("train"),
        )
        for variant in d.variants
    ]


def _declare(path: Path, derived: str) -> None:
    from itune.data.library.tasks import declare  # SeqIO loads here

    if (name := load_declaration(path).name) != path.stem:
        raise UserError(f"{path}: name: is {name!r}; the file must be called {name}.yaml")
    declare(path, derived=derived)
