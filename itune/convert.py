"""`python -m itune.convert`: a run or any weights, as a folder that transformers or peft loads."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from itune import cli
from itune.errors import UserError
from itune.storage import names


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    if flags.gin_bindings:
        raise UserError(f"--gin.{flags.gin_bindings[0]}: convert takes no gin bindings")
    if (flags.model is None) == (flags.pack is None):
        raise UserError("one of --model (to convert) and --pack (adapters into one file) is needed")
    names.on_disk("--to", flags.to)
    if flags.pack is not None:
        from itune.weights.adapter_file import pack

        print(f"Written: {pack(flags.pack, Path(flags.to).expanduser())}", file=sys.stderr)
        return 0
    options = {name: getattr(flags, name) for name in ("step", "dtype", "overwrite")}
    options |= {"adapter": flags.with_adapter, "separate": flags.adapter == "separate"}
    options["max_bytes"] = _bytes(flags.max_shard_size)

    from itune.inference.convert import convert  # JAX loads here: a slip on the command line has been reported by now

    convert(flags.model, Path(flags.to), **options, echo=lambda line: print(line, file=sys.stderr))
    return 0


def _bytes(text: str) -> int:
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)(KB|MB|GB|)", text.upper())) or not float(match[1]):
        raise UserError(f"--max_shard_size={text}: a number of bytes, KB, MB or GB is needed, such as 5GB")
    return int(float(match[1]) * 1000 ** ("", "KB", "MB", "GB").index(match[2]))


def _parser() -> cli.Parser:
    example = "python -m itune.convert --model=runs/quickstart --to=my_model"
    parser = cli.Parser(prog="python -m itune.convert", description=__doc__, example=example, macros=False)
    parser.add_argument("--model", metavar="RUN_DIR|SOURCE", help=cli.SOURCE)
    parser.add_argument("--to", required=True, metavar="FOLDER", help="where to; appears whole or not at all")
    parser.add_argument("--step", metavar="N|best", help="of a run: the checkpoint's step (default: the newest)")
    which = ("merged", "separate")
    parser.add_argument("--adapter", choices=which, default="merged", help="separate: in peft's format, by itself")
    parser.add_argument("--with_adapter", default="", metavar="FOLDER|FILE:NAME", help=cli.ADAPTER)
    parser.add_argument("--pack", nargs="+", metavar="NAME=FOLDER", help="adapters by name, into --to=FILE.safetensors")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default: bfloat16")
    parser.add_argument("--max_shard_size", default="5GB", metavar="SIZE", help="of a file; default: 5GB")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in FOLDER")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
