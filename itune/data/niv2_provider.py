"""A copy of Super-NaturalInstructions that is registered when it is asked for. Imports neither SeqIO nor TensorFlow."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from itune.data import lazy
from itune.data.niv2_files import TEST, TRAIN, clusters_of, identity_of, licence_of, listing, task_name

COLLECTION = "niv2"


def provide_niv2(folder: str | Path, *, prefix: str = "niv2", **settings: Any) -> None:
    """Makes known what `niv2_tasks` would register with the same arguments; nothing is read until it is asked for."""
    names = (prefix, *(f"{prefix}_{use}" for use in (TRAIN, TEST)))
    arguments = {"folder": Path(folder), "prefix": prefix, **settings}
    lazy.provide(names, functools.partial(_register, arguments), functools.partial(_describe, arguments))


def _register(arguments: dict[str, Any]) -> None:
    from itune.data.niv2 import niv2_tasks  # SeqIO loads here

    niv2_tasks(**arguments)


def _describe(arguments: dict[str, Any]) -> list[lazy.Summary]:
    folder, prefix = arguments["folder"].expanduser(), arguments["prefix"]
    there = listing(folder, arguments.get("splits", "default"), arguments.get("leave_out", ("mmlu",)))
    clusters = clusters_of(there.heads, arguments.get("clusters") or {}, folder)
    found = []
    for use in (TRAIN, TEST):
        for name in there.listed[use]:
            path = there.files[name]
            found.append(
                lazy.Summary(
                    name=task_name(prefix, name),
                    cluster=clusters[path],
                    licence=licence_of(there.heads[path]),
                    collection=COLLECTION,
                    identity=identity_of(there.heads[path]["Source"], arguments.get("identities"))
                    or task_name(prefix, name),
                    description=f"{name}, for {'training' if use == TRAIN else 'testing'}",
                )
            )
        if there.listed[use]:
            found.append(lazy.Summary(name=f"{prefix}_{use}", collection=COLLECTION, mixture=True))
    return found
