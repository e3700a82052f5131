"""`hf:ORG/NAME@REVISION` -> a folder in huggingface_hub's cache: what itune reads of a model, and never a pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itune.errors import UserError

PREFIX = "hf:"
INDEX = "model.safetensors.index.json"
NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Weights, tokenizer and templates; no pickles, no other frameworks' weights, no original/ copies.
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
# consolidated*: a second copy of the weights, in their maker's own layout.
IGNORED = ["*/*", "*training_args*", "*.bin.index.json", "consolidated*"]


def fetch(source: str, echo: Callable[[str], None]) -> Path:
    """The folder of the model that `source` names, fetched if it isn't cached; offline from then on.

    HF_HOME, HF_HUB_OFFLINE and HF_TOKEN are huggingface_hub's own.

    Raises: UserError, one line: a name that is none, no such model or revision, one that asks for access, no network.
    """
    match = NAME.fullmatch(source)
    if match is None:
        raise UserError(f"WeightsConfig.source={source!r}: a model on the hub is hf:ORG/NAME or hf:ORG/NAME@REVISION")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise UserError(f"WeightsConfig.source={source!r} needs huggingface_hub: pip install huggingface_hub") from None
    options: dict[str, Any] = {"revision": match["revision"], "allow_patterns": PATTERNS, "ignore_patterns": IGNORED}
    try:
        try:
            cached = Path(huggingface_hub.snapshot_download(match["repo"], local_files_only=True, **options))
            if _is_whole(cached):
                return cached
        except errors.LocalEntryNotFoundError:
            pass
        echo(f"Fetching {source[len(PREFIX) :]} from the Hugging Face hub (once) ...")
        fetched = Path(huggingface_hub.snapshot_download(match["repo"], **options))
        if (fetched / INDEX).is_file() and not _is_whole(fetched):
            raise OSError("offline, a part of it is cached")
        return fetched
    except errors.GatedRepoError:
        page = f"huggingface.co/{match['repo']}"
        raise UserError(f"{source}: its owner asks for access: accept the terms on {page}, then set HF_TOKEN") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{source}: the model has no revision {match['revision']!r}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{source}: no such model on the hub, or one that needs HF_TOKEN to be seen") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{source}: not (whole) in the local cache, and it cannot be fetched ({reason}). On a machine with a "
            f"network: hf download {match['repo']}; then name the folder it prints"
        ) from None


def _is_whole(folder: Path) -> bool:
    """Whether config and weights are there: an interrupted download, or a tokenizer's own, leaves a part of them."""
    index = folder / INDEX
    if not (folder / "config.json").is_file():
        return False
    if not index.is_file():
        # Pickles are never fetched, but where another program left them the refusal names them.
        return any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    try:
        files = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # broken, which reading it says
    return all((folder / name).is_file() for name in files)
