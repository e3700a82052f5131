"""Each preset of flags starts a process: an unknown flag would end it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from itune.errors import UserError
from itune.parallel.xla_flags import PRESETS, use_preset

ROOT = Path(__file__).parents[2]
FETCHED = ROOT / ".libtpu" / "libtpu" / "libtpu.so"
TINY = "import jax; assert float(jax.jit(lambda x: x + 1)(1.0)) == 2; print('ran')"
# libtpu reads its arguments where it is loaded.
TPU = """
import jax
from itune.parallel.topology import topology
one = jax.sharding.SingleDeviceSharding(topology("v5e:2x2").devices[0])
x = jax.ShapeDtypeStruct((8, 128), "float32", sharding=one)
jax.jit(lambda x: x + 1).lower(x).compile()
print("ran")
"""


def ran(name: str, program: str, **environment: str) -> subprocess.CompletedProcess:
    code = f"from itune.parallel.xla_flags import use_preset; use_preset({name!r}); {program}"
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_COMPILATION_CACHE_DIR")
    }
    given = clean | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=given)


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.variable == "XLA_FLAGS"])
def test_jaxlib_takes_each_presets_flags(name):
    done = ran(name, TINY)
    assert done.stdout == "ran\n", done.stderr


@pytest.mark.skipif(not FETCHED.is_file(), reason="needs `make libtpu`")
@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.variable == "LIBTPU_INIT_ARGS"])
def test_libtpu_takes_each_presets_flags(name):
    done = ran(name, TPU)
    assert done.stdout == "ran\n", done.stderr[-2000:]
    assert ran(name, TPU, LIBTPU_INIT_ARGS="--xla_tpu_no_such_flag=true").returncode != 0, "the flags are not read"


def test_an_unknown_flag_ends_the_process():
    assert ran("gpu", TINY, XLA_FLAGS="--xla_gpu_graph_level=0").returncode != 0


def test_what_the_user_gave_comes_last_and_wins(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine=1")
    monkeypatch.delitem(sys.modules, "jax", raising=False)
    use_preset("gpu")
    assert os.environ["XLA_FLAGS"].split() == [*PRESETS["gpu"].flags, "--mine=1"]


def test_an_unknown_preset_is_told_with_the_nearest():
    with pytest.raises(UserError, match="--xla_flags=gpu_mny: presets are gpu, .*Did you mean 'gpu_many'"):
        use_preset("gpu_mny")


def test_the_command_says_so_before_anything_loads():
    command = [sys.executable, "-m", "itune.preflight", "--gin_file=recipes/quickstart.gin", "--xla_flags=tpuu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Did you mean 'tpu'" in done.stderr
