"""Goodput over processes, and what is compiled once and kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from itune import cache
from itune.training.clock import RunClock


def test_steps_that_a_kill_undid_do_not_count(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = RunClock(tmp_path)
    clock.keep([], None)
    with clock.part("compile"):
        now[0] += 10
    now[0] += 30
    clock.add_steps(30)
    assert clock.goodput == pytest.approx(30 / 40)
    clock.tick()  # killed after this; its checkpoint has 20 of the 30 seconds
    later = RunClock(tmp_path)
    later.keep([{"step": 0, "eval": {}}, {"seconds": 12.0}, {"seconds": 5.0}], {"seconds": 3.0})
    now[0] += 20
    later.add_steps(20)
    assert later.goodput == pytest.approx(40 / 60)
    later.save()
    found = json.loads((tmp_path / "time.json").read_text())
    assert found["running"] == 60 and found["steps"] == 40 and found["compile"] == 10
    assert later.sentence() == "Goodput 67%: 40 s of steps in 60 s (compile 10 s)"


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"running": "x"}'])
def test_a_torn_file_is_no_file(tmp_path, content):
    (tmp_path / "time.json").write_text(content)
    assert RunClock(tmp_path).seconds()["running"] < 60


PROGRAM = """
import os, sys
from itune import cli
def main(argv):
    import jax, jax.numpy as jnp
    jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
    print(jax.config.jax_compilation_cache_dir)
    return 0
sys.exit(cli.run(main))
"""


def test_what_is_compiled_is_kept_for_the_next_process(tmp_path):
    keep = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment = keep | {"ITUNE_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    found = []
    for _ in range(2):
        out = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        assert out.stdout.strip().startswith(str(tmp_path / "compiled"))
        found.append({p.name for p in (tmp_path / "compiled").rglob("*-cache")})
    assert found[0] and found[0] == found[1]


def test_jaxs_own_settings_stay(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    cache.keep_compiled_functions()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
