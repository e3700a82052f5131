"""What the tables of bad inputs are made of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itune.errors import UserError


@dataclasses.dataclass(frozen=True)
class Case:
    """`make(folder)` makes the mistake and uses it; `match` is the whole line, FOLDER standing for the folder."""

    name: str
    make: Callable[[Path], Any]
    match: str


def check(case: Case, folder: Path, kinds: tuple[type[Exception], ...] = (UserError,)) -> None:
    with pytest.raises(kinds) as error:
        case.make(folder)
    said = str(error.value)
    assert "\n" not in said and len(said) < 600, said
    assert re.fullmatch(case.match, said.replace(str(folder), "FOLDER")), said
