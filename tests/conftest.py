"""What every test shares: strict JAX on 8 fake CPU devices, real data where it is at hand, tiny models."""

from __future__ import annotations

import os
from pathlib import Path

# Before JAX starts: eight devices, so that meshes are tested everywhere.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# One cache of compiled functions for all workers and for the commands that tests start.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parent.parent / ".compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2 << 30))

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real data in the formats that users bring; tests of it are skipped where there is none."""
    path = Path(os.environ.get("ITUNE_DATA_DIR") or ROOT.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip(f"no real data at {path} (set ITUNE_DATA_DIR)")
    return path


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real weights' folder; the first use on a machine fetches 93 MB."""
    from itune.weights import resolve

    return resolve("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A World whose runs/lora was trained for two steps and has a checkpoint of each, the first with a loss."""
    from tests.world import World

    world = World(tmp_path_factory.mktemp("small_run"))
    quick = ("--gin.EvalConfig.generate_per_task=0", "--gin.EvalConfig.chat_baseline=False")
    each = ("--gin.CheckpointConfig.every=1", "--gin.EvalConfig.every=1")
    done = world.train("runs/lora", *quick, *each, "--gin.TRAIN_STEPS=2")
    assert done.returncode == 0, done.stderr
    return world


@pytest.fixture(autouse=True)
def _strict_jax(request: pytest.FixtureRequest):
    """Silent broadcasting of unlike ranks hides shape bugs: it raises in the tests of code that uses JAX."""
    if not any(part in request.node.nodeid for part in ("tests/models", "tests/training", "tests/inference")):
        yield
        return
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield
