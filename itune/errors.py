"""Errors a user can act on: one line that names the file, record or gin binding, and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input. Commands print it as one line and exit with status 2.

    Of a run of several processes: agreed, if all of them raise it at the same place; told, if another one prints it.
    """

    exit_code = 2
    agreed = False
    told = False


def nearest(name: str, valid: Iterable[str]) -> str:
    """`" Did you mean 'rate'?"` for the closest of `valid`, or `""` when nothing is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""
