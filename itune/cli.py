"""What all commands share: flags, one-line errors, exit codes. Loads neither gin nor JAX, so that --help is quick.

Exit codes: 0 done, 2 an error the user can mend (one line on stderr), 130 interrupted; a command may add its own, and
a run of several processes has 76 and 77 (itune/parallel/watch.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from itune.cache import keep_compiled_functions
from itune.config.macros import MACROS
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    from itune.config.run import RunConfig
    from itune.parallel.distributed import Processes

EXIT_USER_ERROR = 2
ACCEPTED_TERMS = "ITUNE_ACCEPT_TERMS"
SOURCE = "a run directory, a Hugging Face folder, a .gguf file, hf:ORG/NAME or a known model's name"
ADAPTER = "of weights: an adapter that peft saved, or one of a file that itune.convert --pack wrote"
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """argparse with exact flags only, errors of one line, and --gin.NAME=VALUE collected in `gin_bindings`."""

    def __init__(self, *, prog: str, description: str, example: str, macros: bool = True):
        epilog = f"example:\n  {example}\n"
        if macros:
            width = max(len(macro.name) for macro in MACROS)
            rows = [f"  {macro.name:<{width}}  {macro.about}" for macro in MACROS]
            epilog += "\nmain macros, for --gin.NAME=VALUE (defaults: gin_configs/base.gin):\n" + "\n".join(rows)
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

        accept = "model terms that you have read and accept, such as gemma; may be repeated"
        self.add_argument("--accept_terms", action="append", default=[], metavar="NAME", help=accept)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The flags. Raises UserError for an unknown one, with the nearest."""
        words, bindings = _take_bindings(sys.argv[1:] if argv is None else argv)
        flags, rest = self.parse_known_args(words)
        if rest:
            self._refuse(rest[0])
        flags.gin_bindings = bindings
        if flags.accept_terms:
            # By the environment, where every process that resolves weights finds it.
            os.environ[ACCEPTED_TERMS] = ",".join(flags.accept_terms)
        return flags

    def _refuse(self, word: str) -> NoReturn:
        if word.endswith(".gin"):
            raise UserError(f"{self.prog}: unexpected {word!r}. Did you mean '--gin_file={word}'?")
        flag = word.partition("=")[0]
        kind = "there is no flag" if word.startswith("-") else "unexpected"
        options = [option for option in self._option_string_actions if option.startswith("--")]
        raise UserError(f"{self.prog}: {kind} {flag!r}.{nearest(flag, [*options, '--gin.NAME=VALUE'])}")


def _take_bindings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """["--dry_run", "--gin.A=1", "--gin.B", "2"] -> ["--dry_run"], ["A=1", "B=2"]. argparse has no open sets."""
    words, bindings = [], []
    rest = iter(argv)
    for word in rest:
        if not word.startswith("--gin."):
            words.append(word)
        elif "=" in word:
            bindings.append(word.removeprefix("--gin."))
        else:
            bindings.append(f"{word.removeprefix('--gin.')}={next(rest, '')}")
    return words, bindings


def split_rest(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """["--a", "--", "--b"] -> ["--a"], ["--b"]: what stands after -- is meant for somebody else."""
    words = list(argv)
    end = words.index("--") if "--" in words else len(words)
    return words[:end], words[end + 1 :]


def add_config_flags(parser: Parser) -> None:
    """--gin_file, --gin.NAME=VALUE, --workdir, --module_import: the flags of a command that starts from a RunConfig."""
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a gin file, from here or from gin_configs/; may be repeated, later ones override",
    )
    # Only for --help: parse() takes these words out before argparse sees them.
    parser.add_argument("--gin.NAME", metavar="VALUE", dest="_", help="override a macro or a binding, in gin's syntax")
    parser.add_argument("--workdir", metavar="DIR", help="where the run lives; sets MODEL_DIR")
    parser.add_argument(
        "--module_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="a Python module that registers SeqIO tasks, beside MIXTURE_OR_TASK_MODULE; may be repeated",
    )


def add_xla_flag(parser: Parser) -> None:
    """--xla_flags=NAME, for commands whose speed the compiler's flags decide."""
    from itune.parallel.xla_flags import PRESETS

    about = "; ".join(f"{name}: {preset.about}" for name, preset in PRESETS.items())
    parser.add_argument("--xla_flags", default="", metavar="NAME", help=f"a preset of the compiler's flags ({about})")


def add_process_flags(parser: Parser) -> None:
    """--coordinator and what goes with it, for a run over several processes; Slurm, Open MPI and GKE need none."""
    group = parser.add_argument_group("several processes (found by themselves under Slurm, Open MPI and on GKE)")
    about = "where process 0 listens; auto: ask JAX for all of it, as on the workers of a TPU pod"
    group.add_argument("--coordinator", metavar="HOST:PORT", help=about)
    group.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process_id", type=int, metavar="I", help="which of them this is, from 0")
    seconds = {
        "heartbeat_timeout": (100.0, "without a sign of life before a process counts as gone (exit code 76)"),
        "step_timeout": (1800.0, "without progress of any before the run counts as stuck (77); 0: never"),
        "start_timeout": (300.0, "for all to come"),
    }
    for name, (default, about) in seconds.items():
        text = f"seconds {about}; {default:g}"
        group.add_argument(f"--{name}", type=float, default=default, metavar="SECONDS", help=text)


def processes(flags: argparse.Namespace) -> Processes:
    """What the flags of `add_process_flags` say."""
    from itune.parallel.distributed import Processes

    return Processes(**{field.name: getattr(flags, field.name) for field in dataclasses.fields(Processes)})


def add_format_flag(parser: Parser) -> None:
    """--format=text|json, for commands that print a result."""
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to print the result")


def load_config(flags: argparse.Namespace) -> RunConfig:
    """The RunConfig that the flags of `add_config_flags` describe. Raises UserError."""
    from itune.config.load import load_run

    if getattr(flags, "xla_flags", ""):
        from itune.parallel.xla_flags import use_preset

        use_preset(flags.xla_flags)
    return load_run(flags.gin_file, flags.gin_bindings, model_dir=flags.workdir, modules=flags.module_import)


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """`main`'s exit code; a UserError becomes one line on stderr and 2, Ctrl-C becomes 130."""
    keep_compiled_functions()
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        if not error.told:
            print("itune: error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("itune: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `... | head` closed stdout: say no more, not even at the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
