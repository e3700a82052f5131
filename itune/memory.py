"""How this process's memory is laid out. Standard library only: it runs before anything is imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLES = "GLIBC_TUNABLES"


def use_huge_pages() -> None:
    """Starts this command again with malloc asking Linux for pages of 2 MB, where that is for the asking.

    XLA takes and returns its temporary memory, a gigabyte and more, in every step on a CPU; by pages of 4 KB a tenth of
    the step goes into page faults (benchmarks/train_step.py). glibc reads the setting only at the start of a process.
    A GLIBC_TUNABLES of the user's own is left alone.
    """
    if sys.platform == "linux" and TUNABLES not in os.environ and _for_the_asking():
        os.environ[TUNABLES] = "glibc.malloc.hugetlb=1"
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)


def _for_the_asking() -> bool:
    """Not where they are always given, or never."""
    try:
        return "[madvise]" in SWITCH.read_text("ascii")
    except OSError:
        return False
