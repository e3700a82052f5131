"""Chat templates of every common style, and conversations to lay out. Both environments import this.

The templates are written for this, after the styles' public descriptions; {% generation %} tags stand in each, so that
transformers says which tokens are the assistant's, and `plain` takes them out again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tokenizers
from tokenizers import Regex, pre_tokenizers

from tests.parity import corpus

OPEN, CLOSE = "{% generation %}", "{% endgeneration %}"
# Line breaks and the blanks before them are one piece whatever follows, as in Llama 3's tokenizer.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
)


@dataclasses.dataclass(frozen=True)
class Style:
    """template: with generation tags. specials: tokens that the tokenizer needs beside its own. merged: it takes system
    text, if at all, only as part of the first user turn, and insists that user and assistant take turns."""

    template: str
    eos: str
    bos: str | None = None
    specials: tuple[str, ...] = ()
    split: str | None = None
    merged: bool = False

    @property
    def plain(self) -> str:
        return self.template.replace(OPEN, "").replace(CLOSE, "")


_SYSTEM_MERGED = (
    "{% set head = '' %}{% set rest = messages %}"
    "{% if messages[0].role == 'system' %}{% set head = SYSTEM %}{% set rest = messages[1:] %}{% endif %}"
    "{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
)

STYLES = {
    "chatml": Style(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        + OPEN
        + "{{ m.content + '<|im_end|>' }}"
        + CLOSE
        + "{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        eos="<|im_end|>",
        bos="<|im_start|>",
    ),
    "llama3": Style(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{% if m.role == 'assistant' %}"
        + OPEN
        + "{{ m.content | trim + '<|eot_id|>' }}"
        + CLOSE
        + "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
        specials=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        split=LLAMA3_SPLIT,
    ),
    "llama2": Style(
        _SYSTEM_MERGED.replace("SYSTEM", "'<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n'")
        + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (head if loop.first else '') + m.content + ' [/INST]' }}"
        "{% else %}" + OPEN + "{{ ' ' + m.content + ' ' + eos_token }}" + CLOSE + "{% endif %}{% endfor %}",
        eos="</s>",
        bos="<s>",
        specials=("<s>", "</s>"),
        merged=True,
    ),
    "mistral": Style(
        "{{ bos_token }}"
        + _SYSTEM_MERGED.replace("SYSTEM", "messages[0].content + '\n\n'")
        + "{% if m.role == 'user' %}{{ '[INST] ' + (head if loop.first else '') + m.content + '[/INST]' }}"
        "{% else %}" + OPEN + "{{ ' ' + m.content + eos_token }}" + CLOSE + "{% endif %}{% endfor %}",
        eos="</s>",
        bos="<s>",
        specials=("<s>", "</s>", "[INST]", "[/INST]"),
        merged=True,
    ),
    "gemma": Style(  # its end of turn is not the tokenizer's EOS
        "{{ bos_token }}"
        + _SYSTEM_MERGED.replace("SYSTEM", "messages[0].content + '\n\n'")
        + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}{% if m.role == 'user' %}"
        "{{ (head if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% else %}"
        + OPEN
        + "{{ m.content | trim + '<end_of_turn>' }}"
        + CLOSE
        + "{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        eos="<eos>",
        bos="<bos>",
        specials=("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        merged=True,
    ),
    "zephyr": Style(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
        + OPEN
        + "{{ m.content + eos_token }}"
        + CLOSE
        + "{{ '\n' }}{% else %}{{ m.content + eos_token + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        eos="</s>",
        specials=("</s>",),
    ),
}


def write_folder(folder: Path, base: Path, style: Style, template: str) -> Path:
    """A model folder with the tokenizer of the folder `base`, the style's tokens in it, and a template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    if style.split is not None:
        cut = pre_tokenizers.Split(Regex(style.split), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_only])
    tokenizer.add_special_tokens([*style.specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": style.eos} | ({"bos_token": style.bos} if style.bos else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def _talk(*said: str, system: str = "") -> list[dict[str, str]]:
    head = [{"role": "system", "content": system}] if system else []
    return head + [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]


# Our own wording: lengths, scripts, line breaks, code, and what looks like a header without being one.
CONVERSATIONS = [
    _talk("2+2?", "4"),
    _talk("2+2?", "4", "And 3+3?", "6", "Thanks!", "You are welcome.", system="Answer in one word."),
    _talk(
        "Write a loop.",
        "```python\nfor i in range(3):\n    print(i)\n```",
        "Why 3?",
        "No reason.\n\nAny number will do.",
    ),
    _talk(
        "Wie heißt du?",
        "Ich heiße Anna – und du? 🙂",
        "名前は太郎です。",
        "はじめまして、太郎さん。",
        system="Sei höflich.",
    ),
    _talk(
        "assistant\nwhat?",
        "user: that is what you said",
        "[INST is no tag",
        "### Neither is this",
        "ok",
        "ok\n\n- one\n- two",
    ),
    _talk("List two.\n\n", "1. one\n2. two", " indented", "A reply that ends in a colon:"),
]


def conversations() -> list[list[dict[str, str]]]:
    """Those above, and where real data is at hand every path of the Open Assistant trees that ends in a reply."""
    root = corpus.data_dir()
    path = root / "general" / "oasst_en_100_tree.jsonl" if root is not None else None
    if path is None or not path.is_file():
        return CONVERSATIONS
    found = list(CONVERSATIONS)
    for line in path.read_text("utf-8").splitlines():
        waiting = [(json.loads(line)["prompt"], [])]
        while waiting:
            node, said = waiting.pop()
            # Sides as itune's readers trim them.
            said = [*said, node["text"].strip("\n").rstrip()]
            waiting += [(reply, said) for reply in node["replies"]]
            if not node["replies"] and len(said) > 1:
                found.append(_talk(*said[: len(said) // 2 * 2]))
    return found
