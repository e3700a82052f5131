"""transformers' token ids and assistant masks of conversations in every style of chat template.

    .venv-parity/bin/python tests/parity/make_chat.py --base MODEL_FOLDER --out DIR [--golden]

Writes DIR/chat.json for run_parity.py; with --golden also tests/golden/chat.json, of our own conversations alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from transformers import PreTrainedTokenizerFast  # noqa: E402

from tests.parity import chats  # noqa: E402


def references(base: Path, conversations: list) -> dict[str, list[dict | None]]:
    """{style: [{"ids", "mask"} of each conversation, or None where the template refuses it]}"""
    found: dict[str, list[dict | None]] = {}
    for name, style in chats.STYLES.items():
        rows: list[dict | None] = []
        with tempfile.TemporaryDirectory() as scratch:
            folder = chats.write_folder(Path(scratch), base, style, style.template)
            special = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **special)
        for messages in conversations:
            try:
                marked = tokenizer.apply_chat_template(
                    messages, chat_template=style.template, return_assistant_tokens_mask=True, return_dict=True
                )
                plain = tokenizer.apply_chat_template(messages, chat_template=style.plain, return_dict=True)
            except Exception as error:
                if "turns must alternate" not in str(error):
                    raise
                rows.append(None)
                continue
            assert marked["input_ids"] == plain["input_ids"], name
            rows.append({"ids": marked["input_ids"], "mask": "".join(map(str, marked["assistant_masks"]))})
        found[name] = rows
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder whose tokenizer.json is used")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--golden", action="store_true")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    write(flags.out / "chat.json", references(flags.base, chats.conversations()))
    if flags.golden:
        write(ROOT / "tests" / "golden" / "chat.json", references(flags.base, chats.CONVERSATIONS))


def write(path: Path, found: dict[str, list[dict | None]]) -> None:
    styles = (f'"{name}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for name, rows in found.items())
    path.write_text("{\n" + ",\n".join(styles) + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
