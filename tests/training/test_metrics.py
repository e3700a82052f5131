"""Where a run's numbers go."""

import io
import json
import stat
import sys
import types

import pytest

from itune.errors import UserError
from itune.training.config import LoggingConfig
from itune.training.metrics import MetricsWriter, SharedConsole, cut_back, new_progress, progress_bar

RECORD = {"step": 3, "loss": 1.5, "tasks": {"toy/add": {"loss": 2.0}}, "note": "text is no scalar"}


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package, which needs an account: what it was started with, and all that it was given."""
    fake = types.ModuleType("wandb")
    fake.started, fake.logged, fake.finished = [], [], 0

    def finish():
        fake.finished += 1

    def init(**settings):
        fake.started.append(settings)
        return types.SimpleNamespace(log=lambda scalars, step: fake.logged.append((step, scalars)), finish=finish)

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def write(folder, *, sensitive=False, allow_remote=False, project="studies"):
    config = LoggingConfig(tensorboard=False, wandb_project=project)
    writer = MetricsWriter(folder, config, sensitive=sensitive, allow_remote=allow_remote, run_config={"seed": 0})
    writer.write(RECORD)
    writer.close()


def test_weights_and_biases_gets_the_scalars_of_every_line(wandb, tmp_path):
    write(tmp_path)
    assert wandb.logged == [(3, {"loss": 1.5, "tasks/toy/add/loss": 2.0})] and wandb.finished == 1
    assert wandb.started[0]["project"] == "studies" and wandb.started[0]["config"] == {"seed": 0}
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == RECORD


def test_a_resumed_run_keeps_its_page_and_a_namesake_has_another(wandb, tmp_path):
    for parent in ("a", "a", "b"):
        folder = tmp_path / parent / "run"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)
    first, again, other = (settings["id"] for settings in wandb.started)
    assert first == again != other
    assert {settings["name"] for settings in wandb.started} == {"run"}


def test_sensitive_metrics_leave_the_machine_only_when_told_to(wandb, tmp_path):
    with pytest.raises(UserError, match="--allow_remote_tracker"):
        write(tmp_path, sensitive=True)
    assert not wandb.started
    write(tmp_path, sensitive=True, allow_remote=True)
    assert len(wandb.started) == 1


def test_a_tracker_that_is_not_installed_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"pip install 'itune\[wandb\]'"):
        write(tmp_path)


def test_off_is_off(wandb, tmp_path):
    write(tmp_path, project="", sensitive=True)
    assert not wandb.started


def test_the_lines_of_sensitive_tasks_are_their_owners_alone_after_a_resume_too(tmp_path):
    for sensitive, mode in ((True, 0o600), (False, 0o644)):
        folder = tmp_path / str(sensitive)
        folder.mkdir()
        write(folder, sensitive=sensitive, project="")
        path = folder / "metrics.jsonl"
        cut_back(path, 3)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert json.loads(path.read_text()) == RECORD


def test_counts_by_task_stay_in_the_file(wandb, tmp_path):
    """A thousand tasks have a thousand of each: of these, trackers are given the losses and the epochs."""
    by_task = {
        "task_loss": {"a": 1.0},
        "task_tokens": {"a": 2},
        "task_tokens_total": {"a": 3},
        "task_epochs": {"a": 0.5},
    }
    config = LoggingConfig(tensorboard=False, wandb_project="studies")
    writer = MetricsWriter(tmp_path, config, sensitive=False)
    writer.write({"step": 1} | by_task)
    writer.close()
    assert wandb.logged == [(1, {"task_loss/a": 1.0, "task_epochs/a": 0.5})]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1} | by_task


def test_bars_share_one_display_where_a_console_has_one():
    console = SharedConsole(file=io.StringIO())
    with new_progress(console) as display:
        console.progress = display
        study = display.add_task("study", total=2, status="")
        with progress_bar(console) as bar:
            assert bar is display
            bar.add_task("training", total=3, status="")
            assert len(display.tasks) == 2
        assert [task.id for task in display.tasks] == [study], "a run's line goes with it"
    console.progress = None
    with progress_bar(console) as bar:
        assert bar is not display
