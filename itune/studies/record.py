"""study.json: what a study is made of, and whether the runs that are there are still comparable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import itune
from itune.errors import UserError
from itune.evaluation.results import write_text
from itune.studies.amounts import Facts
from itune.studies.arms import Study, difference
from itune.studies.measures import LOSSES


def write_record(study: Study, found: Mapping[str, Facts]) -> None:
    """study.json: the arms and what they differ in.

    Raises: UserError where other code made the runs that are there, or an arm's with other weights or data.
    """
    path = study.folder / "study.json"
    made: dict[str, dict[str, str]] = {}
    if path.is_file() and any(study.folder.glob(f"runs/*/*/{LOSSES}")):
        before = json.loads(path.read_text("utf-8"))
        _check_same(path, "its runs were", "code of itune's", before.get("code"), code_digest())
        made = before.get("made", {})
    for arm in study.arms:
        now = {"weights": found[arm.name].weights, "data": found[arm.name].data}
        then = made.setdefault(arm.digest, now)
        if any(study.folder.glob(f"runs/*-{arm.digest}/*/{LOSSES}")):
            for key in ("weights", "data"):
                _check_same(path, f"runs of the arm {arm.name!r} were", key, then.get(key), now[key])
        made[arm.digest] = now
    record = {
        "code": code_digest(),
        "study": dataclasses.asdict(study.config),
        "arms": {
            arm.name: {
                "bindings": list(arm.difference),
                "digest": arm.digest,
                "amounts": dict(found[arm.name].amounts),
                "differs": {k: [repr(a), repr(b)] for k, (a, b) in difference(study.base.config, arm.config).items()},
            }
            for arm in study.arms
        },
        "made": made,
    }
    write_text(path, json.dumps(record, indent=1) + "\n")


def _check_same(path: Path, whose: str, what: str, then: str | None, now: str) -> None:
    if then != now:
        raise UserError(
            f"{path}: {whose} made with other {what} ({str(then)[:12]}, now {now[:12]}), and runs of both are no "
            "comparison. Give another --workdir"
        )


def code_digest() -> str:
    """Of itune's own sources, those that read results aside: an arm that other code trained is another arm."""
    package = Path(itune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] != "studies":
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
