"""The command line: flags, one-line errors, exit codes, and a --help that loads nothing."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest

import itune.training
from itune import cli, train
from itune.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = ("gin", "jax", "tensorflow", "seqio", "numpy")


def command(*args: str) -> subprocess.CompletedProcess:
    """`python -m itune.train ARGS`, with the heavy modules that it loaded on the last line of stdout."""
    code = (
        "import sys; from itune import cli, train\n"
        "try: code = cli.run(train.main, sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code or 0\n"
        f"print([m for m in {HEAVY} if m in sys.modules]); sys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", code, *args], cwd=PROJECT, capture_output=True, text=True)


@pytest.fixture
def loop(monkeypatch) -> list[tuple]:
    """Stands for itune.training.loop; the calls that it got."""
    calls: list[tuple] = []
    fake = types.ModuleType("itune.training.loop")
    fake.train = lambda config, *, resume, show_text, allow_remote_tracker, session: (
        calls.append(("train", config, resume, show_text)) or 75
    )
    fake.dry_run = lambda config, *, output_format: calls.append(("dry_run", config, output_format)) or 0
    monkeypatch.setitem(sys.modules, "itune.training.loop", fake)
    monkeypatch.setattr(itune.training, "loop", fake, raising=False)
    return calls


def test_help_loads_nothing():
    done = command("--help")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"
    for text in (
        "--gin_file",
        "--gin.NAME",
        "--workdir",
        "--module_import",
        "--dry_run",
        "--no-resume",
        "example:",
        "TRAIN_STEPS",
    ):
        assert text in done.stdout


def test_module_runs_as_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "itune.train", "--gin_file=recipes/quickstart.gin", "--gin.TRAIN_STEP=1"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    message = "--gin.TRAIN_STEP=1: no binding uses the macro TRAIN_STEP. Did you mean 'TRAIN_STEPS'?"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"itune: error: {message}\n")


def test_a_slip_is_reported_before_jax_loads():
    done = command("--gin_file=recipes/quickstart.gin", "--gin.LOSS_NORM=exmaple")
    assert done.returncode == 2
    assert done.stdout.strip() == "['gin']"
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("Did you mean 'example'?\n")


FLAGS = {
    "unknown": (["--dryrun"], "python -m itune.train: there is no flag '--dryrun'. Did you mean '--dry_run'?"),
    "abbreviated": (["--work=a"], "python -m itune.train: there is no flag '--work'. Did you mean '--workdir'?"),
    "no value": (["--gin_file"], "python -m itune.train: argument --gin_file: expected one argument"),
    "bare file": (["a.gin"], "python -m itune.train: unexpected 'a.gin'. Did you mean '--gin_file=a.gin'?"),
    "no file": ([], "--gin_file is required, such as --gin_file=gin_configs/recipes/quickstart.gin."),
    "gin without a value": (
        ["--gin_file=recipes/quickstart.gin", "--gin.SEED"],
        "--gin.SEED=: no value (the empty string is '').",
    ),
    "json of nothing": (
        ["--format=json"],
        "--format=json goes with --dry_run; a run writes metrics.jsonl into MODEL_DIR.",
    ),
}


@pytest.mark.parametrize("argv, message", FLAGS.values(), ids=FLAGS.keys())
def test_bad_flags(argv, message, capsys):
    assert cli.run(train.main, argv) == 2
    assert capsys.readouterr().err == f"itune: error: {message}\n"


def test_train_gets_the_config_and_its_exit_code_comes_back(loop):
    argv = [
        "--gin_file=recipes/quickstart.gin",
        "--gin.TRAIN_STEPS=7",
        "--gin.RunConfig.seed",
        "-3",
        "--workdir",
        "out",
    ]
    assert cli.run(train.main, argv) == 75
    assert cli.run(train.main, [*argv, "--no-resume", "--show_text"]) == 75
    assert cli.run(train.main, [*argv, "--dry_run"]) == 0
    assert cli.run(train.main, [*argv, "--dry_run", "--format=json"]) == 0
    config = loop[0][1]
    assert (config.train.steps, config.seed, config.model_dir) == (7, -3, "out")
    assert [(call[0], *call[2:]) for call in loop] == [
        ("train", True, False),
        ("train", False, True),
        ("dry_run", "text"),
        ("dry_run", "json"),
    ]
    assert all(call[1] == config for call in loop)


def test_exit_codes(capsys):
    def raises(error):
        def main(argv):
            raise error

        return main

    assert cli.run(lambda argv: len(argv), ["a", "b", "c"]) == 3
    assert cli.run(raises(UserError("a\n  long\nstory")), []) == 2
    assert capsys.readouterr().err == "itune: error: a long story\n"
    assert cli.run(raises(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "itune: interrupted\n"
    with pytest.raises(ZeroDivisionError):  # a fault of ours keeps its traceback
        cli.run(raises(ZeroDivisionError()), [])


def test_closed_pipe_is_quiet():
    main = "lambda argv: [print('x' * 99) for _ in range(9999)] and 0"
    code = f"from itune import cli; import sys; sys.exit(cli.run({main}))"
    done = subprocess.run(
        f'{sys.executable} -c "{code}" | head -1', shell=True, cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("x" * 99 + "\n", "")


def test_modules_on_the_command_line_join_those_of_the_config(loop, tmp_path):
    """Once each, after gin's own; and they stand in the config that a run saves."""
    from itune.config.load import load_run
    from itune.config.save import save_run

    words = ["--gin_file=recipes/quickstart.gin", f"--workdir={tmp_path}", "--module_import=my.tasks"]
    assert train.main([*words, "--module_import=tasks", "--module_import=t5.data.mixtures"]) == 75
    config = loop[0][1]
    assert config.data.modules == ("tasks", "my.tasks", "t5.data.mixtures")
    save_run(config, tmp_path)
    assert load_run([tmp_path / "config.gin"]) == config
    with pytest.raises(UserError, match=r"--module_import=my/tasks.py: .*Did you mean 'my.tasks'\?"):
        train.main([*words[:2], "--module_import=my/tasks.py"])


def test_what_follows_two_dashes_is_for_another_program():
    assert cli.split_rest(["--a", "--", "--b", "--", "c"]) == (["--a"], ["--b", "--", "c"])
    assert cli.split_rest(["--a"]) == (["--a"], [])
