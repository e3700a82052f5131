"""A model's tokenizer, read from a Hugging Face folder. No TensorFlow, no SeqIO, no JAX: the trainer loads this too."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import tokenizers

from itune.data import sentencepiece_model
from itune.errors import UserError

_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
_Config = dict[str, Any]
# Around what a template's {% generation %} blocks make: noncharacters, which Unicode keeps out of texts.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARKS = re.compile(r"\{%[-+]?\s*generation\b")


class Tokenizer:
    """`tokenizers` with the special tokens and chat template that a Hugging Face folder declares.

    Token ids equal transformers' `AutoTokenizer(text, add_special_tokens=False)`: nothing is added, and text that
    spells a special token ("<|im_end|>") becomes that token, in data as in prompts.

    Attributes:
      eos_id: the token that ends every target. bos_id, pad_id, unk_id: None where the model has none.
      prefix: ids that every sequence begins with: [bos_id], or none. Chat templates write theirs themselves.
      end_ids: what the folder's generation_config.json (or config.json) says ends a reply, beside eos_id.
      added_ids: of tokens that text spells whole ("<|im_end|>"), whatever stands around it.
      vocab_size: largest id + 1, added tokens included.
      digest: SHA-256 (hex) of everything that decides ids and prompts: tokenizer.json, special tokens, chat template.
      chat_template: Jinja source, or None.
    """

    def __init__(
        self,
        tokenizer_json: str,
        special_tokens: dict[str, str],
        chat_template: str | None = None,
        *,
        add_bos: bool | None = None,
        end_ids: Sequence[int] = (),
    ) -> None:
        """special_tokens: {"eos_token": "</s>", ...}, with an eos_token. UserError for one outside the vocabulary.

        add_bos: whether text begins with BOS; None is what tokenizer.json's own post-processor does.
        """
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
        # The file may carry the truncation and padding of some training script; transformers ignores both on load.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = dict(special_tokens)
        eos_id = self._id("eos_token")
        if eos_id is None:
            raise UserError("the tokenizer declares no eos_token: without one a model cannot learn where to stop")
        self.eos_id: int = eos_id
        self.bos_id = self._id("bos_token")
        self.pad_id = self._id("pad_token")
        self.unk_id = self._id("unk_token")
        self.added_ids = frozenset(self._tokenizer.get_added_tokens_decoder())
        self.vocab_size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1
        self.end_ids = tuple(i for i in end_ids if 0 <= i < self.vocab_size)
        self.chat_template = chat_template
        if add_bos is None:
            found = self._tokenizer.encode("a", add_special_tokens=True).ids
            add_bos = self.bos_id is not None and found[:1] == [self.bos_id]
        self.prefix = [self.bos_id] if add_bos and self.bos_id is not None else []
        marks = ["begins with BOS"] if self.prefix else []
        parts = json.dumps([tokenizer_json, sorted(special_tokens.items()), chat_template, *marks])
        self.digest = hashlib.sha256(parts.encode("utf-8")).hexdigest()

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Reads tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja in `folder`.

        Raises UserError where tokenizer.json is missing or broken, or no EOS token is declared.
        """
        folder = Path(folder)
        config = _read_config(folder / "special_tokens_map.json") | _read_config(folder / "tokenizer_config.json")
        path, text, special = _read_tokenizer(folder, config)
        special |= {name: token for name in _SPECIAL if (token := _token_text(config.get(name))) is not None}
        if "eos_token" not in special:
            raise UserError(f"{folder / 'tokenizer_config.json'}: no eos_token; every target must end in one")
        try:
            return cls(
                text,
                special,
                _chat_template(folder, config),
                add_bos=config.get("add_bos_token"),
                end_ids=_end_ids(folder),
            )
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None
        except Exception as error:  # `tokenizers` raises bare Exception for a file that it cannot parse
            raise UserError(f"{path}: not a tokenizer that `tokenizers` can read ({error})") from None

    def _id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        if text is None:
            return None
        token_id = self._tokenizer.token_to_id(text)
        if token_id is None:
            raise UserError(f"{name}={text!r} is not in the tokenizer's vocabulary")
        return int(token_id)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; no BOS, no EOS."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_ends(self, text: str) -> tuple[list[int], list[int]]:
        """`encode`, and for each token where in `text`, in characters, it ends."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return list(found.ids), [end for _, end in found.offsets]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each, on all cores."""
        return [list(e.ids) for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def spell(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens as they are written."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The text of each token, special ones too. Joined they are the whole; a character made of several tokens
        stands at the last of them, and the others are empty."""
        whole, texts, done = [int(i) for i in ids], list[str](), ""
        for n in range(1, len(whole) + 1):
            text = self.spell(whole[:n])
            complete = n == len(whole) or not text.endswith("\ufffd")
            texts.append(text[len(done) :] if complete else "")
            done = text if complete else done
        return texts

    def render_chat(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool) -> str:
        """[{"role": "user", "content": "Hi"}] -> the text that the model's chat template makes of it.

        The template comes with the weights, from outside, so it runs in Jinja's sandbox. UserError where there is none,
        or where the template refuses these messages.
        """
        return self.render_marked(messages, add_generation_prompt)[0]

    def render_marked(
        self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text of `render_chat`, and where in it each {% generation %} block begins and ends, in characters."""
        if self.chat_template is None:
            raise UserError("this model's tokenizer has no chat template; use the plain prompt format")
        try:
            text = _compile(self.chat_template).render(
                messages=list(messages),
                tools=None,  # as transformers: templates ask whether they are none
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise UserError(f"the model's chat template failed: {error}") from None
        return _take_marks(text) if _MARKS.search(self.chat_template) else (text, [])


def _read_tokenizer(folder: Path, config: _Config) -> tuple[Path, str, dict[str, str]]:
    """(the file, as tokenizer.json has it, special tokens that it names): tokenizer.json, or a SentencePiece model."""
    path = folder / "tokenizer.json"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        if text.startswith("version https://git-lfs"):
            raise UserError(
                f"{path}: is a git-lfs pointer and not the tokenizer; fetch it with: git -C {folder} lfs pull"
            )
        return path, text, {}
    path = next((folder / name for name in sentencepiece_model.FILES if (folder / name).is_file()), path)
    if not path.is_file():
        raise UserError(f"{folder}: no tokenizer.json or tokenizer.model here (a Hugging Face model folder has one)")
    is_t5 = str(config.get("tokenizer_class", "")).startswith(("T5", "MT5"))
    extra_ids = config.get("extra_ids", 100 if is_t5 else 0)
    text, special = sentencepiece_model.read_model(path, int(extra_ids))
    declared = config.get("added_tokens_decoder")
    if isinstance(declared, dict):
        text = sentencepiece_model.add_declared(text, declared, str(folder / "tokenizer_config.json"))
    return path, text, special


def check_vocabulary(tokenizer: Tokenizer, embeddings: int, folder: Path) -> None:
    """Raises UserError if the tokenizer can give ids that the model has no embedding for."""
    if tokenizer.vocab_size > embeddings:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model only {embeddings} embeddings"
        )


def _read_config(path: Path) -> _Config:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _end_ids(folder: Path) -> list[int]:
    """As transformers: config.json's are for folders whose generation_config.json names none."""
    for name in ("generation_config.json", "config.json"):
        found = _read_config(folder / name).get("eos_token_id")
        if found is not None:
            return [i for i in (found if isinstance(found, list) else [found]) if isinstance(i, int)]
    return []


def _token_text(value: Any) -> str | None:
    """`"</s>"` or `{"content": "</s>", ...}` -> `"</s>"`; both spellings occur in the wild."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _chat_template(folder: Path, config: _Config) -> str | None:
    """The template file wins over the config's, as in transformers; of several, the one named "default"."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {t["name"]: t["template"] for t in template}.get("default")
    return template if isinstance(template, str) else None


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, **options: Any) -> str:
    # Jinja's own tojson escapes HTML, which would put &lt; into prompts.
    return json.dumps(value, ensure_ascii=False, **options)


class _Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, by which a template says what the model itself writes."""

    tags = {"generation"}  # noqa: RUF012 - as the base class has it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], inside).set_lineno(line)

    def _mark(self, caller: Any) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _take_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without its marks, and what lay between them. UserError for marks that don't stand in pairs."""
    pieces = re.split(f"([{_OPEN}{_CLOSE}])", text)
    if pieces[1::2] != [_OPEN, _CLOSE] * (len(pieces) // 4):
        raise UserError(
            "the model's chat template nests its generation blocks, or the text holds the noncharacters U+FDD0, U+FDD1"
        )
    bounds, length = [], 0
    for piece in pieces[::2]:
        length += len(piece)
        bounds.append(length)
    return "".join(pieces[::2]), list(zip(bounds[::2], bounds[1::2], strict=False))


@functools.lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    """The environment that transformers gives chat templates (trimmed blocks, loop controls, these three helpers)."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda fmt: datetime.datetime.now().strftime(fmt)
    return environment.from_string(source)
