"""`hf:ORG/NAME@REVISION` -> a folder in huggingface_hub's cache: what itune reads of a model, and never a pickle."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itune.errors import UserError

PREFIX = "hf:"
NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Weights, tokenizer and templates; no pickles, no other frameworks' weights, no original/ copies.
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
IGNORED = ["*/*", "*training_args*", "*.bin.index.json"]


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
            return Path(huggingface_hub.snapshot_download(match["repo"], local_files_only=True, **options))
        except errors.LocalEntryNotFoundError:
            echo(f"Fetching {source[len(PREFIX) :]} from the Hugging Face hub (once) ...")
        return Path(huggingface_hub.snapshot_download(match["repo"], **options))
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
            f"{source}: not in the local cache, and it cannot be fetched ({reason}). On a machine with a network: "
            f"hf download {match['repo']}; then name the folder it prints"
        ) from None
