"""From a study's gin file to its arms."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from itune.config.save import config_digest
from itune.errors import UserError
from itune.studies.arms import difference, load_study

RECIPE = "include 'gin_configs/recipes/quickstart.gin'\n"


@pytest.fixture
def study(tmp_path: Path):
    def load(text: str, *bindings: str):
        path = tmp_path / "study.gin"
        path.write_text(RECIPE + textwrap.dedent(text))
        return load_study([path], bindings, workdir=str(tmp_path / "out"))

    return load


def test_arms_are_the_base_and_what_differs_from_it(study, tmp_path: Path) -> None:
    found = study("""
        DataConfig.rate_factors = {'clinic/qa/*': 2.0}
        StudyConfig.arms = {'slow': ('LearningRateConfig.peak=1e-4', 'TRAIN_STEPS=10')}
        StudyConfig.leave_out = ('clinic/extract/*', 'clinic/qa/*')
        StudyConfig.axes = {'LoRAConfig.rank': ('4', '8')}
        StudyConfig.seeds = (3, 1)
    """)
    assert [arm.name for arm in found.arms] == [
        "base", "slow", "without clinic/extract/*", "without clinic/qa/*", "rank=4", "rank=8",
    ]  # fmt: skip
    said = {arm.name: difference(found.base.config, arm.config) for arm in found.arms}
    assert said["base"] == {}
    assert said["slow"] == {"LearningRateConfig.peak": (1e-3, 1e-4), "TrainConfig.steps": (36, 10)}
    assert said["without clinic/extract/*"]["DataConfig.rate_factors"][1] == {
        "clinic/extract/*": 0.0,
        "clinic/qa/*": 2.0,
    }
    assert said["without clinic/qa/*"]["DataConfig.rate_factors"][1] == {"clinic/qa/*": 0.0}, (
        "in the place of its own rate"
    )
    assert said["rank=8"] == {"LoRAConfig.rank": (16, 8)}
    run = found.arms[1].run(found.folder, 3)
    assert run.seed == 3 and run.model_dir == str(tmp_path / "out" / "runs" / f"slow-{found.arms[1].digest}" / "seed-3")
    assert len({arm.digest for arm in found.arms}) == 6


def test_a_factor_of_a_name_does_not_outlive_the_pattern_that_is_left_out_or_mixed(study) -> None:
    found = study("""
        DataConfig.rate_factors = {'clinic/qa/dose': 2.0, 'clinic/extract/*': 3.0}
        StudyConfig.leave_out = ('clinic/qa/*',)
        StudyConfig.random_mixtures = 1
        StudyConfig.mix = ('clinic/qa/*',)
    """)
    without, mixed = (arm.config.data.rate_factors for arm in found.arms[1:])
    assert without == {"clinic/qa/*": 0.0, "clinic/extract/*": 3.0}
    assert list(mixed) == ["clinic/qa/*", "clinic/extract/*"]


def test_a_directory_is_named_by_what_is_run_and_not_by_the_arms_name(study) -> None:
    first = study("StudyConfig.arms = {'a': ('LearningRateConfig.peak=1e-4',)}").arms[1]
    same = study("StudyConfig.arms = {'b': ('LearningRateConfig.peak=1e-4',)}").arms[1]
    edited = study("StudyConfig.arms = {'a': ('LearningRateConfig.peak=2e-4',)}").arms[1]
    assert first.digest == same.digest != edited.digest
    assert config_digest(first.config) == config_digest(same.config)


@pytest.mark.parametrize(
    ("combine", "names"),
    [
        ("each", ["rank=4", "rank=8", "peak=1e-4", "peak=1e-2"]),
        ("zip", ["rank=4, peak=1e-4", "rank=8, peak=1e-2"]),
        ("product", ["rank=4, peak=1e-4", "rank=4, peak=1e-2", "rank=8, peak=1e-4", "rank=8, peak=1e-2"]),
    ],
)
def test_axes_combine(study, combine: str, names: list[str]) -> None:
    found = study(f"""
        StudyConfig.axes = {{'LoRAConfig.rank': ('4', '8'), 'LearningRateConfig.peak': ('1e-4', '1e-2')}}
        StudyConfig.combine = '{combine}'
    """)
    assert [arm.name for arm in found.arms[1:]] == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are no arms; say arms=, leave_out=, add= or axes="),
        ("StudyConfig.arms = {'a': ('SEED=1',)}", "arm 'a': --gin.SEED=1: no binding uses the macro SEED"),
        ("StudyConfig.arms = {'a': ('LoRAConfig.rnak=1',)}", "arm 'a': .*Did you mean 'rank'"),
        ("StudyConfig.arms = {'a': ('LoRAConfig.rank=big',)}", "arm 'a': .*LoRAConfig.rank='big' must be an int"),
        ("StudyConfig.arms = {'a': ('LoRAConfig.rank=16',)}", "arm 'a': comes to the same run as the base"),
        (
            "StudyConfig.arms = {'a': ('LoRAConfig.rank=4',), 'b': ('LoRAConfig.rank=4',)}",
            "arm 'b': comes to the same run as the arm 'a'",
        ),
        ("StudyConfig.arms = {'base': ('LoRAConfig.rank=4',)}", "'base' is the recipe without a difference"),
        ("StudyConfig.arms = {'rank=4': ('LoRAConfig.rank=4',)}\nStudyConfig.axes = {'LoRAConfig.rank': ('4',)}",
         "two arms are called 'rank=4'"),
        ("StudyConfig.seeds = (1, 1)\nStudyConfig.leave_out = ('x',)", "must be different numbers"),
        ("StudyConfig.held_equal = 'step'\nStudyConfig.leave_out = ('x',)", "must be one of .*Did you mean 'steps'"),
        ("StudyConfig.axes = {'LoRAConfig.rank': ('4', '8'), 'LoRAConfig.alpha': ('1',)}\nStudyConfig.combine = 'zip'",
         "needs as many values on each axis"),
        ("StudyConfig.leave_uot = ('x',)", "StudyConfig has no field 'leave_uot'. Did you mean 'leave_out'"),
    ],
)  # fmt: skip
def test_bad_studies_are_one_line(study, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        study(text)
    assert "\n" not in str(caught.value)


def test_the_command_line_changes_every_arm(study) -> None:
    found = study("StudyConfig.leave_out = ('clinic/extract/*',)", "TRAIN_STEPS=7", "StudyConfig.seeds=(0, 1, 2)")
    assert [arm.config.train.steps for arm in found.arms] == [7, 7] and found.config.seeds == (0, 1, 2)


def test_a_run_refuses_a_study(tmp_path: Path) -> None:
    from itune.config.load import load_run

    path = tmp_path / "study.gin"
    path.write_text(RECIPE + "StudyConfig.seeds = (1,)\n")
    with pytest.raises(UserError, match="it describes a study: python -m itune.ablate runs that"):
        load_run([path])


STUDIES = sorted((Path(__file__).parents[2] / "gin_configs" / "studies").glob("*.gin"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_with_itune_load(path: Path, tmp_path: Path) -> None:
    found = load_study([path], workdir=str(tmp_path))
    assert len(found.arms) > 2 and all(difference(found.base.config, arm.config) for arm in found.arms[1:])
    runs = re.search(r"(\d+) runs", path.read_text())
    if runs:
        assert int(runs[1]) == len(found.arms) * len(found.config.seeds)


def test_shares_of_few_shot_prompts_are_what_the_arms_say() -> None:
    from itune.data.rates import scaled

    (path,) = [path for path in STUDIES if path.stem == "few_shot_share"]
    names, mixture = ["a/zs", "a/inv", "a/fs_opt", "a/fs_inv", "b/zs", "b/fs"], [3.0, 1.0, 3.0, 1.0, 2.0, 2.0]
    for arm in load_study([path], workdir="x").arms[1:]:
        rates = scaled(names, mixture, {}, arm.config.data.rate_factors)
        few = sum(rate for name, rate in zip(names, rates, strict=True) if "/fs" in name)
        assert few / sum(rates) == pytest.approx(float(arm.name.split()[1]) / 100)
