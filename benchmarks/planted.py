"""Does a study find what is there, and nothing where nothing is? Real runs of a tiny random model on toy tasks.

python -m benchmarks.planted [--nulls=20]

Planted: without toy/echo the model can't learn to echo, which the study must find. Null: arms that differ from the
base in their name and in the order of their examples only; how many of these studies call something significant. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

STEPS, SEEDS = 24, 5
STUDY = """
include '{recipe}'
TRAIN_STEPS = {steps}
LearningRateConfig.peak = 1e-2
CheckpointConfig.every = 0
LoggingConfig.tensorboard = False
EvalConfig.chat_baseline = False
EvalConfig.generate_per_task = 0
EvalConfig.examples_per_task = 12
EvalConfig.worst_examples = 0
StudyConfig.endpoint = 'held_in'
StudyConfig.seeds = {seeds}
StudyConfig.arms = {arms}
"""
PLANTED = {"without echo": ("DataConfig.rate_factors={'toy/echo': 0.0}",)}
# Examples planned together: another number shuffles them otherwise, and changes nothing else.
NULL = {"shuffled": ("DataConfig.window=15",), "shuffled again": ("DataConfig.window=14",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nulls", type=int, default=20)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ITUNE_CACHE_DIR"] = str(Path(folder) / "cache")
        sys.path.insert(0, folder)
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
        report(Path(folder), flags.nulls)


def report(folder: Path, nulls: int) -> None:
    import jax

    from itune.studies.statistics import exact_interval
    from tests.world import World

    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    world = World(folder)
    start = time.perf_counter()
    (verdict,) = judged(world, "planted", range(SEEDS), PLANTED).values()
    e = verdict.effect
    print(
        f"planted: {e.estimate:+.3f} nats ({e.interval[0]:+.3f} to {e.interval[1]:+.3f}), corrected p "
        f"{verdict.p_corrected:.2g}: {'found' if verdict.significant else 'not found'}",
        flush=True,
    )
    alarms, estimates = 0, []
    for number in range(nulls):
        # Seeds of its own: each null study is another sample.
        found = judged(world, f"null {number}", range(SEEDS * (number + 1), SEEDS * (number + 2)), NULL)
        alarm = any(v.significant for v in found.values())
        alarms += alarm
        estimates += [v.effect.estimate for v in found.values()]
        said = ", ".join(f"{v.effect.estimate:+.3f} (p {v.p_corrected:.2f})" for v in found.values())
        print(f"null {number}: {said}{': ALARM' if alarm else ''}", flush=True)
    low, high = exact_interval(alarms, nulls)
    print(f"{alarms} of {nulls} null studies call some arm significant ({low:.1%} to {high:.1%})")
    figures = {
        "name": "planted",
        "planted_effect": e.estimate,
        "planted_found": verdict.significant,
        "nulls": nulls,
        "false_alarms": alarms,
        "largest_null": max(map(abs, estimates), default=None),
        "steps": STEPS,
        "seeds": SEEDS,
        "seconds": round(time.perf_counter() - start),
    }
    print(json.dumps(figures))


def judged(world, name: str, seeds: range, arms: dict):
    """The verdicts of a study of real runs, by arm."""
    from itune.studies.arms import load_study
    from itune.studies.outcomes import answers, outcomes
    from itune.studies.runner import run_study

    path = world.folder / f"{name}.gin"
    path.write_text(STUDY.format(recipe=world.recipe, steps=STEPS, seeds=tuple(seeds), arms=arms))
    study = load_study([path], workdir=str(world.folder / name))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = run_study(study)
    if code:
        raise SystemExit(f"{name}: exit code {code}\n{said.getvalue()[-2000:]}")
    return {arm: a.verdict for arm, a in answers(study, outcomes(study)).items()}


if __name__ == "__main__":
    main()
