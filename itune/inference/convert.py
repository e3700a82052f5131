"""A run, or weights from anywhere -> a folder that transformers or peft loads. It appears whole or not at all."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from itune.data.prompt import stop_ids
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError
from itune.inference.opening import Opened, open_model
from itune.weights.card import MARK, write_card
from itune.weights.export import write_model
from itune.weights.fetch import RELEASES
from itune.weights.hub import PREFIX
from itune.weights.peft import write_adapter

Echo = Callable[[str], None]


def convert(
    model: str,
    target: Path,
    *,
    step: str | None = None,
    adapter: str = "",
    separate: bool = False,
    dtype: str = "bfloat16",
    max_bytes: int = 5 * 10**9,
    overwrite: bool = False,
    echo: Echo,
) -> None:
    """Writes the Hugging Face folder `target` of a model, or (`separate`) peft's folder of what it trained.

    Args:
      model: a run directory, or a source as in WeightsConfig.  step: of a run, as in `session.load`.
      adapter: a folder that peft saved, merged into `model` where that is no run.
      max_bytes: of a safetensors file; more go into shards.

    Raises: UserError for what is no model, or a target that is not empty.
    """
    target = Path(target).expanduser().resolve()
    _check_target(target, overwrite)
    opened = open_model(model, step=step, adapter=adapter)
    needed = [opened.folder, Path.cwd(), *(Path(name).expanduser() for name in (model, adapter) if name)]
    for path in needed:
        if path.exists() and path.resolve().is_relative_to(target):
            raise UserError(f"--to={target}: holds {path}, which must stay; name another folder")
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write(opened, partial, target.name, separate=separate, dtype=dtype, max_bytes=max_bytes)
        if target.exists():
            # Moved aside until the new one is in its place: a kill in between loses neither.
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--to={target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    echo(f"Written: {target}")


def _check_target(target: Path, overwrite: bool) -> None:
    """Raises: UserError unless it is free, or a folder that convert wrote and may replace."""
    if target.is_file():
        raise UserError(f"--to={target}: is a file; name a folder")
    if not target.exists() or not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"--to={target}: is there already and not empty; another folder, or --overwrite")
    card = target / "README.md"
    if not card.is_file() or MARK not in card.read_text("utf-8", "replace"):
        raise UserError(f"--to={target}: was not written by itune.convert, and is not overwritten; name another folder")


def _write(opened: Opened, folder: Path, name: str, *, separate: bool, dtype: str, max_bytes: int) -> None:
    tokenizer = Tokenizer.from_folder(opened.folder)
    if separate:
        base = opened.source.removeprefix(PREFIX).partition("@")[0]
        if not opened.trained:
            raise UserError(f"{opened.source}: has no adapter to separate; --adapter=separate is for runs")
        write_adapter(opened.spec, opened.trained, folder, base=base, dtype=dtype)
        what = f"An adapter in peft's format ({dtype}) for {base}"
        if base in RELEASES or base.endswith(".gguf"):
            what += f" (as transformers loads it: `python -m itune.convert --model={base} --to=BASE`)"
    else:
        stops = stop_ids(tokenizer, opened.prompt_format)
        write_model(
            opened.folder, opened.spec, opened.trained, folder, dtype=dtype, max_bytes=max_bytes, stop_ids=stops
        )
        what = f"Weights in {dtype}"
    if opened.run is not None and (opened.run / "config.gin").is_file():
        # Not config.gin: that marks a run. Where this one lay is nobody's business.
        settings = (opened.run / "config.gin").read_text("utf-8")
        settings = re.sub(r"(?m)^(RunConfig\.model_dir|MODEL_DIR) = .*$", r'\1 = "unset"', settings)
        (folder / "itune_config.gin").write_text(settings, "utf-8")
    write_card(
        folder,
        name=name,
        base=opened.folder,
        source=opened.source,
        run=opened.run,
        step=opened.step,
        what=what,
        library="peft" if separate else "transformers",
    )
