"""Huge pages are asked for once, and only where Linux gives them for the asking."""

import os
import sys

import pytest

from itune import memory


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What was started instead, and a switch to write to."""
    calls = []
    monkeypatch.setattr(memory, "SWITCH", tmp_path / "enabled")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "execv", lambda *command: calls.append(command))
    monkeypatch.setenv(memory.TUNABLES, "")  # so that what the test sets is taken back
    monkeypatch.delenv(memory.TUNABLES)
    return calls


def test_the_same_command_starts_again_with_the_setting(started):
    memory.SWITCH.write_text("always [madvise] never\n")
    memory.use_huge_pages()
    assert started == [(sys.executable, sys.orig_argv)]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    memory.use_huge_pages()
    assert len(started) == 1, "once is enough"


@pytest.mark.parametrize("switch", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_starts_where_it_would_change_nothing(started, switch):
    if switch is not None:
        memory.SWITCH.write_text(switch)
    memory.use_huge_pages()
    assert not started


def test_a_setting_of_the_users_is_left_alone(started):
    memory.SWITCH.write_text("always [madvise] never\n")
    os.environ["GLIBC_TUNABLES"] = "glibc.malloc.check=1"
    memory.use_huge_pages()
    assert not started
