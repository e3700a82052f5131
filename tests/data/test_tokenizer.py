"""The tokenizer and SeqIO's view of it, on a byte-level BPE small enough to make here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from itune.data.tokenizer import Tokenizer
from itune.data.vocabularies import HFVocabulary
from itune.errors import UserError

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder whose tokenizer.json adds a BOS and cuts at 4 tokens, as training scripts leave them."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["the patient has a cough and the patient has a fever"] * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>", "chat_template": CHAT}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def configure(folder: Path, **changes: object) -> Tokenizer:
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}), encoding="utf-8")
    return Tokenizer.from_folder(folder)


def test_reads_special_tokens_in_both_spellings(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, None)
    assert tokenizer.vocab_size == max(tokenizer._tokenizer.get_vocab().values()) + 1


def test_encode_adds_nothing_and_cuts_nothing(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    text = "the patient has a fever, ünïcode 🩺 and\n\ttabs"
    ids = tokenizer.encode(text)
    assert len(ids) > 4 and 1 not in ids and 2 not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("") == []
    assert tokenizer.encode_batch([text, ""]) == [ids, []]


def test_special_token_text_in_data_becomes_the_token(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("a<|im_end|>b")
    assert ids == [*tokenizer.encode("a"), 2, *tokenizer.encode("b")]
    assert tokenizer.decode(ids) == "ab"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json: not a tokenizer"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json: not JSON"),
        (lambda f: (f / "tokenizer_config.json").write_text("{}"), "no eos_token"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"eos_token": "</s>"}'), "'</s>' is not in the tokenizer"),
    ],
)
def test_a_broken_folder_is_one_line(folder: Path, break_it, message: str) -> None:
    break_it(folder)
    with pytest.raises(UserError, match=message) as error:
        Tokenizer.from_folder(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_chat_template_golden(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    messages = [{"role": "user", "content": 'Is 3 < 5 & "true"?'}]
    assert tokenizer.render_chat(messages, True) == (
        '<|im_start|>user\nIs 3 < 5 & "true"?<|im_end|>\n<|im_start|>assistant\n'
    )
    assert tokenizer.render_chat(messages, False).endswith("<|im_end|>\n")


def test_chat_template_file_wins_and_a_list_has_a_default(folder: Path) -> None:
    several = [{"name": "tool_use", "template": "tool"}, {"name": "default", "template": "{{ eos_token }}"}]
    assert configure(folder, chat_template=several).render_chat([], False) == "<|im_end|>"
    (folder / "chat_template.jinja").write_text("{{ messages | tojson }}", encoding="utf-8")
    assert Tokenizer.from_folder(folder).render_chat([{"role": "user", "content": "é<"}], False) == (
        '[{"role": "user", "content": "é<"}]'
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[5].content.x }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% if %}",
    ],
)
def test_chat_template_that_fails_or_reaches_out_is_refused(folder: Path, template: str) -> None:
    with pytest.raises(UserError, match="chat template failed"):
        configure(folder, chat_template=template).render_chat([{"role": "user", "content": "x"}], True)


def test_no_chat_template(folder: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        configure(folder, chat_template=None).render_chat([], True)


def test_digest_covers_whatever_decides_ids_and_prompts(folder: Path) -> None:
    before = Tokenizer.from_folder(folder).digest
    assert Tokenizer.from_folder(folder).digest == before
    assert configure(folder, model_max_length=8).digest == before
    digests = {
        before,
        configure(folder, chat_template="other").digest,
        configure(folder, eos_token="<|endoftext|>").digest,
    }
    assert len(digests) == 3


def test_vocabulary_in_tf_equals_python(folder: Path) -> None:
    vocabulary = HFVocabulary(Tokenizer.from_folder(folder))
    texts = ["the patient has a cough", "", "ünïcode 🩺<|im_end|>", "a fever"]
    want = [vocabulary.encode(t) for t in texts]
    dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf)
    assert dataset.element_spec == tf.TensorSpec([None], tf.int32)
    assert [ids.tolist() for ids in dataset.as_numpy_iterator()] == want
    assert vocabulary.encode_tf(tf.constant(texts)).to_list() == want


def test_vocabulary_decodes_to_the_first_eos(folder: Path) -> None:
    vocabulary = HFVocabulary(Tokenizer.from_folder(folder))
    ids = [*vocabulary.encode("a fever"), vocabulary.eos_id, *vocabulary.encode(" and more")]
    assert vocabulary.decode(ids) == "a fever"
    assert vocabulary.decode_tf(tf.constant([ids, ids])).numpy().tolist() == [b"a fever"] * 2
    assert vocabulary.decode(vocabulary.encode("a fever")) == "a fever"


def test_vocabularies_are_equal_by_content(folder: Path) -> None:
    one, same = (HFVocabulary(Tokenizer.from_folder(folder)) for _ in range(2))
    assert one == same and hash(one) == hash(same)
    assert one != HFVocabulary(configure(folder, eos_token="<|endoftext|>"))


def test_tokenizer_loads_no_tensorflow() -> None:
    code = "import itune.data.tokenizer, sys; print(sorted({'tensorflow', 'seqio', 'jax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
