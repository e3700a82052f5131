"""Each fault that gin accepts silently, or reports badly, ends in exactly this line."""

from __future__ import annotations

from pathlib import Path

import pytest

from itune.config import load_run
from itune.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
BASE = PROJECT / "gin_configs" / "base.gin"


def base_line(text: str) -> str:
    """`file:line` of the line of base.gin that begins with `text`."""
    [number] = [i for i, line in enumerate(BASE.read_text().splitlines(), 1) if line.startswith(text)]
    return f"{BASE}:{number}"


def error_of(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_run(*args, **kwargs)
    return str(caught.value)


# `text` follows four good lines, so its first line is run.gin:5.
NAMES = {
    "class": (
        "TrainConfg.log_every = 2",
        "5: TrainConfg.log_every: there is no config 'TrainConfg'. Did you mean 'TrainConfig'?",
    ),
    "parameter": (
        "TrainConfig.log_evry = 2",
        "5: TrainConfig.log_evry: TrainConfig has no field 'log_evry'. Did you mean 'log_every'?",
    ),
    "parameter of another class": (
        "TrainConfig.warmup_steps = 2",
        "5: TrainConfig.warmup_steps: TrainConfig has no field 'warmup_steps'. "
        "Did you mean 'LearningRateConfig.warmup_steps'?",
    ),
    "parameter in a block": (
        "RunConfig:\n  sed = 1",
        "6: RunConfig.sed: RunConfig has no field 'sed'. Did you mean 'seed'?",
    ),
    "macro defined": ("BATCH_SIZ = 8", "5: no binding uses the macro BATCH_SIZ. Did you mean 'BATCH_SIZE'?"),
    "macro that is a field": ("seed = 8", "5: no binding uses the macro seed. Did you mean 'RunConfig.seed'?"),
    "macro in small letters": ("batch_siz = 8", "5: no binding uses the macro batch_siz. Did you mean 'BATCH_SIZE'?"),
    "macro used": (
        "RunConfig.seed = %BATCH_SIZ",
        "5: RunConfig.seed=%BATCH_SIZ: there is no macro 'BATCH_SIZ'. Did you mean 'BATCH_SIZE'?",
    ),
    "reference": (
        "RunConfig.optimizer = @AdamConfig()",
        "5: RunConfig.optimizer=@AdamConfig(): there is no config 'AdamConfig'. Did you mean 'AdamWConfig'?",
    ),
    "scope": ("train/RunConfig.seed = 3", "5: train/RunConfig: scopes are not supported; bind RunConfig itself."),
    "module": (
        "import tasks.clinic",
        "5: 'import tasks.clinic': a gin file imports nothing; configs are known by name.",
    ),
}
TYPES = {
    "str for int": ("RunConfig.seed = '128'", "5: RunConfig.seed='128' must be an int, not a str. Did you mean 128?"),
    "float for int": (
        "RunConfig.seed = 1e4",
        "5: RunConfig.seed=10000.0 must be an int, not a float. Did you mean 10000?",
    ),
    "fraction for int": ("RunConfig.seed = 1.5", "5: RunConfig.seed=1.5 must be an int, not a float."),
    "bool for int": ("RunConfig.seed = True", "5: RunConfig.seed=True must be an int, not a bool."),
    "None for int": ("RunConfig.seed = None", "5: RunConfig.seed=None must be an int, not None."),
    "str for float": (
        "LearningRateConfig.peak = '1e-4'",
        "5: LearningRateConfig.peak='1e-4' must be a float, not a str. Did you mean 0.0001?",
    ),
    "bool for float": (
        "LearningRateConfig.peak = True",
        "5: LearningRateConfig.peak=True must be a float, not a bool.",
    ),
    "infinite float": ("LearningRateConfig.peak = 1e999", "5: LearningRateConfig.peak=inf must be a float, not inf."),
    "str for tuple": (
        "EvalConfig.held_out = ('a')",
        "5: EvalConfig.held_out='a' must be a tuple of str, not a str. Did you mean ('a',)?",
    ),
    "int in tuple": (
        "EvalConfig.held_out = ('a', 3)",
        "5: EvalConfig.held_out=('a', 3) must be a tuple of str: item 1 is an int. Did you mean '3'?",
    ),
    "int for bool": (
        "EvalConfig.chat_baseline = 1",
        "5: EvalConfig.chat_baseline=1 must be a bool, not an int. Did you mean True?",
    ),
    "int for str": ("EvalConfig.split = 5", "5: EvalConfig.split=5 must be a str, not an int. Did you mean '5'?"),
    "str in dict, through a macro": (
        "TASK_FEATURE_LENGTHS = {'inputs': '64', 'targets': 64}",
        "5: TASK_FEATURE_LENGTHS={'inputs': '64', 'targets': 64} (DataConfig.feature_lengths) "
        "must be a dict of str to int: ['inputs'] is a str. Did you mean 64?",
    ),
    "str for int, through a macro": (
        "BATCH_SIZE = '8'",
        "5: BATCH_SIZE='8' (TrainConfig.batch_size) must be an int, not a str. Did you mean 8?",
    ),
    "int for the one field that takes a str or a tuple": (
        "MIXTURE_OR_TASK_MODULE = 3",
        "5: MIXTURE_OR_TASK_MODULE=3 (DataConfig.modules) must be a tuple of str, not an int.",
    ),
    "class for int": (
        "RunConfig.seed = @MeshConfig()",
        "5: RunConfig.seed=@MeshConfig() must be an int, not @MeshConfig().",
    ),
    "neither str nor None": (
        "MeshConfig.rules = {'mlp': ()}",
        "5: MeshConfig.rules={'mlp': ()} must be a dict of str to str or None: ['mlp'] is a tuple.",
    ),
    "wrong class in a slot": (
        "RunConfig.optimizer = @LoRAConfig()",
        "5: RunConfig.optimizer=@LoRAConfig() must be @AdamWConfig() or @AdafactorConfig(), not @LoRAConfig().",
    ),
    "str in a slot": (
        "RunConfig.optimizer = 'AdamW'",
        "5: RunConfig.optimizer='AdamW' must be @AdamWConfig() or @AdafactorConfig(), not a str. "
        "Did you mean '@AdamWConfig()'?",
    ),
    "class not called": (
        "RunConfig.optimizer = @AdamWConfig",
        "5: RunConfig.optimizer=@AdamWConfig needs brackets. Did you mean @AdamWConfig()?",
    ),
}
TWICE = {
    "macro": ("TRAIN_STEPS = 20", "5: TRAIN_STEPS is bound twice in this file, first on line 3."),
    "binding": (
        "RunConfig.seed = 1\nRunConfig.seed = 1",
        "6: RunConfig.seed is bound twice in this file, first on line 5.",
    ),
    "binding by its full name": (
        "RunConfig.seed = 1\nitune.config.run.RunConfig.seed = 2",
        "6: RunConfig.seed is bound twice in this file, first on line 5.",
    ),
    "in a block": (
        "RunConfig.seed = 1\nRunConfig:\n  seed = 2",
        "7: RunConfig.seed is bound twice in this file, first on line 5.",
    ),
}
EFFECT = {
    "class in no slot": (
        "AdafactorConfig.decay_rate = 0.9",
        f"5: AdafactorConfig.decay_rate has no effect: RunConfig.optimizer is @AdamWConfig() "
        f"(at {base_line('RunConfig.optimizer')}).",
    ),
    "macro bypassed": (
        "TrainConfig.dropout_rate = 0.1\nDROPOUT_RATE = 0.2",
        "6: DROPOUT_RATE has no effect: TrainConfig.dropout_rate is bound at run.gin:5 instead.",
    ),
    "macro of a binding without effect": (
        "RATE = 0.9\nAdafactorConfig.decay_rate = %RATE",
        "5: RATE has no effect: AdafactorConfig.decay_rate at run.gin:6, which uses it, has none.",
    ),
    "macros in a circle": (
        "A = %B\nB = (%A,)\nRunConfig.seed = %A",
        "5: the macro A is defined by itself: A -> B -> A.",
    ),
}
SYNTAX = {
    "unquoted": (
        "LOSS_NORM = example",
        "5: syntax error in LOSS_NORM: example is no value. Did you mean 'example'?",
    ),
    "true": (
        "EvalConfig.chat_baseline = true",
        "5: syntax error in EvalConfig.chat_baseline: true is no value. Did you mean True?",
    ),
    "no value": ("RunConfig.seed =", "5: syntax error in RunConfig.seed: Unable to parse value."),
    "two values": ("RunConfig.seed = 1 2", "5: syntax error in RunConfig.seed: Expected newline."),
    "no equals sign": ("RunConfig seed", "5: syntax error: Couldn't parse statement, expected ':' or '='."),
    "open bracket": (
        "EvalConfig.held_out = ('a',\n\n",
        "5: syntax error in EvalConfig.held_out: a bracket or a string is not closed.",
    ),
    "open bracket before a binding": (
        "# why\nEvalConfig.held_out = ('a',\nBATCH_SIZE = 4",
        "7: syntax error in EvalConfig.held_out (begun on line 6; is a bracket open?): "
        "BATCH_SIZE is no value. Did you mean 'BATCH_SIZE'?",
    ),
    "unhashable key": ("BATCH_SIZE = {[1]: 2}", "5: syntax error in BATCH_SIZE: unhashable type: 'list'"),
    "include after a binding": (
        "include 'gin_configs/models/smollm2_135m_instruct.gin'",
        "5: include 'gin_configs/models/smollm2_135m_instruct.gin' must stand before this file's bindings.",
    ),
}
# __post_init__ raises these; the front names the binding to mend.
AXES = "embed, heads, kv_heads, mlp, vocab, layers, adapters"
INVALID = {
    "an axis of no parameter": (
        "MeshConfig.rules = {'kv_head': None}",
        f"5: MeshConfig.rules={{'kv_head': None}}: rules has 'kv_head', which is no logical axis; they are {AXES}. "
        "Did you mean 'kv_heads'?",
    ),
    "an axis of no mesh": (
        "MeshConfig.rules = {'heads': None, 'mlp': 'tensr'}",
        "5: MeshConfig.rules={'heads': None, 'mlp': 'tensr'}: rules puts mlp on 'tensr'; it may lie on tensor or be "
        "copied (None). Did you mean 'tensor'?",
    ),
    "an axis that splits rows": (
        "MeshConfig.rules = {'vocab': 'fsdp'}",
        "5: MeshConfig.rules={'vocab': 'fsdp'}: rules puts vocab on 'fsdp'; it may lie on tensor or be copied (None).",
    ),
    "an axis that nothing splits": (
        "MeshConfig.rules = {'layers': 'fsdp'}",
        "5: MeshConfig.rules={'layers': 'fsdp'}: rules puts layers on 'fsdp'; it may only be copied (None).",
    ),
    "choice": (
        "LOSS_NORM = 'exmaple'",
        "5: LOSS_NORM='exmaple' (TrainConfig.loss_norm): TrainConfig.loss_norm='exmaple' must be one of "
        "('tokens', 'example'). Did you mean 'example'?",
    ),
    "choice in a tuple": (
        "LoRAConfig.layers = ('v_proj', 'q_prj')",
        "5: LoRAConfig.layers=('v_proj', 'q_prj'): LoRAConfig.layers names 'q_prj'; the linear layers are "
        "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj. Did you mean 'q_proj'?",
    ),
    "range": ("LoRAConfig.rank = 0", "5: LoRAConfig.rank=0: LoRAConfig.rank=0 must be at least 1."),
    "a newer binding of another field": (
        "LoRAConfig.rank = 0\nLoRAConfig.alpha = 1.0",
        "5: LoRAConfig.rank=0: LoRAConfig.rank=0 must be at least 1.",
    ),
    "two fields, the newer binding is named": (
        "TrainConfig.accumulation = 3",
        "5: TrainConfig.accumulation=3: TrainConfig.batch_size=4 must divide by accumulation=3.",
    ),
    "required of the recipe itself": (
        "RunConfig.seed = %gin.REQUIRED",
        "5: RunConfig.seed is required: bind it in your gin file, or give --gin.RunConfig.seed=VALUE.",
    ),
}
FAULTS = {
    f"{kind}: {name}": fault
    for kind, table in [
        ("name", NAMES),
        ("type", TYPES),
        ("twice", TWICE),
        ("effect", EFFECT),
        ("syntax", SYNTAX),
        ("invalid", INVALID),
    ]
    for name, fault in table.items()
}


@pytest.mark.parametrize("text, message", FAULTS.values(), ids=FAULTS.keys())
def test_fault_in_a_file(write, text, message):
    assert error_of([write(text)]) == f"run.gin:{message}"


def test_the_preamble_is_good(write):
    """Else the table above could pass for the wrong reason."""
    assert load_run([write("")]).train.steps == 10


COMMAND_LINE = {
    "macro": (
        ["TRAIN_STEP=5"],
        "--gin.TRAIN_STEP=5: no binding uses the macro TRAIN_STEP. Did you mean 'TRAIN_STEPS'?",
    ),
    "parameter": (
        ["RunConfig.sed=5"],
        "--gin.RunConfig.sed=5: RunConfig.sed: RunConfig has no field 'sed'. Did you mean 'seed'?",
    ),
    "no value": (["TRAIN_STEPS"], "--gin.TRAIN_STEPS: a binding is --gin.NAME=VALUE, such as --gin.TRAIN_STEPS=100."),
    "empty": (["MODEL_DIR="], "--gin.MODEL_DIR=: no value (the empty string is '')."),
    "twice": (
        ["BATCH_SIZE=5", "BATCH_SIZE=5"],
        "--gin.BATCH_SIZE=5: BATCH_SIZE is given twice, first by --gin.BATCH_SIZE=5.",
    ),
    "word for int": (
        ["TRAIN_STEPS=ten"],
        "--gin.TRAIN_STEPS=ten: TRAIN_STEPS='ten' (TrainConfig.steps) must be an int, not a str.",
    ),
    "float for int": (
        ["TRAIN_STEPS=1e4"],
        "--gin.TRAIN_STEPS=1e4: TRAIN_STEPS=10000.0 (TrainConfig.steps) must be an int, not a float. "
        "Did you mean 10000?",
    ),
    "word for bool": (
        ["EvalConfig.chat_baseline=false"],
        "--gin.EvalConfig.chat_baseline=false: EvalConfig.chat_baseline='false' must be a bool, not a str. "
        "Did you mean False?",
    ),
    "word for tuple": (
        ["EvalConfig.held_out=abc"],
        "--gin.EvalConfig.held_out=abc: EvalConfig.held_out='abc' must be a tuple of str, not a str. "
        "Did you mean ('abc',)?",
    ),
    "open bracket": (
        ["EvalConfig.held_out=('a',"],
        "--gin.EvalConfig.held_out=('a',: syntax error: a bracket or a string is not closed.",
    ),
    "two statements": (
        ["TRAIN_STEPS=5\nBATCH_SIZE=3"],
        r"--gin.TRAIN_STEPS=5 BATCH_SIZE=3: TRAIN_STEPS='5\nBATCH_SIZE=3' (TrainConfig.steps) "
        "must be an int, not a str.",
    ),
    "no effect": (
        ["AdafactorConfig.decay_rate=0.5"],
        "--gin.AdafactorConfig.decay_rate=0.5: AdafactorConfig.decay_rate has no effect: RunConfig.optimizer is "
        f"@AdamWConfig() (at {base_line('RunConfig.optimizer')}).",
    ),
}


@pytest.mark.parametrize("bindings, message", COMMAND_LINE.values(), ids=COMMAND_LINE.keys())
def test_fault_on_the_command_line(write, bindings, message):
    assert error_of([write("")], bindings) == message


@pytest.mark.parametrize("given", [{"model_dir": "s3://box/run"}, {"bindings": ["MODEL_DIR=s3://box/run"]}], ids=str)
def test_a_run_lives_in_a_folder_or_a_bucket_of_googles(write, given):
    """Not in a local folder named s3:, which is what pathlib would make of it."""
    said = error_of([write("")], **given)
    what = "model_dir: runs live in folders and in gs://BUCKET/FOLDER; mount s3:// and give the folder."
    assert said.endswith(what) and "s3://box/run" in said
    assert load_run([write("")], model_dir="gs://box/run").folder.name == "run"


def test_workdir_against_its_macro(write):
    message = "--workdir=b: MODEL_DIR is given twice, first by --gin.MODEL_DIR=a."
    assert error_of([write("")], ["MODEL_DIR=a"], model_dir="b") == message
    assert error_of([write("")], model_dir="") == "--workdir=: a folder is needed, such as --workdir=runs/first."


FILES = {
    "missing include": (
        "include 'gin_configs/bse.gin'\n",
        "run.gin:1: include 'gin_configs/bse.gin': no such file. Did you mean 'gin_configs/base.gin'?",
    ),
    "missing include beside the file": (
        "include 'rune.gin'\n",
        "run.gin:1: include 'rune.gin': no such file. Did you mean 'run.gin'?",
    ),
    "circle": ("\ninclude 'run.gin'\n", "run.gin:2: include 'run.gin' goes round in a circle."),
    "unmet macro": (
        "include 'gin_configs/base.gin'\n",
        f"{base_line('MODEL_DIR')}: MODEL_DIR (RunConfig.model_dir) is required: bind it in your gin file, "
        "or give --gin.MODEL_DIR=VALUE.",
    ),
    "a misspelt macro is named before the one it leaves unmet": (
        "include 'gin_configs/base.gin'\nMODEL_DR = 'a'\n",
        "run.gin:2: no binding uses the macro MODEL_DR. Did you mean 'MODEL_DIR'?",
    ),
    "no base": (
        "",
        "run.gin: RunConfig.model_dir is required, and nothing binds it. Is include 'gin_configs/base.gin' missing?",
    ),
    "required field": (
        "RunConfig.model_dir = 'a'\nRunConfig.data = @DataConfig()\n",
        "run.gin:2: DataConfig.mixture is required, and nothing binds it.",
    ),
    "slot not bound": (
        "WeightsConfig.source = 'a'\n",
        "run.gin:1: WeightsConfig.source has no effect: nothing binds RunConfig.weights. "
        "Did you mean to add RunConfig.weights = @WeightsConfig()?",
    ),
}


@pytest.mark.parametrize("text, message", FILES.values(), ids=FILES.keys())
def test_fault_in_the_files(write, text, message):
    assert error_of([write(text, preamble="")]) == message


def test_missing_gin_file(write):
    write("")
    assert error_of(["rum.gin"]) == "--gin_file=rum.gin: no such file. Did you mean 'run.gin'?"
    message = "--gin_file=recipes/quikstart.gin: no such file. Did you mean 'recipes/quickstart.gin'?"
    assert error_of(["recipes/quikstart.gin"]) == message
    message = "--gin_file is required, such as --gin_file=gin_configs/recipes/quickstart.gin."
    assert error_of([]) == message


def test_unreadable_file(write, tmp_path):
    write("")
    (tmp_path / "run.gin").write_bytes(b"\xff\xfe\x00")
    assert error_of(["run.gin"]) == "run.gin: cannot be read as a gin file: it is not UTF-8 text."


def test_an_included_file_is_a_library(write):
    """It may bind fields of classes in no slot; a named file may not. A stray macro is an error in both."""
    start = "include 'lib.gin'\nMIXTURE_OR_TASK_NAME = 'toy'\nTRAIN_STEPS = 10\nMODEL_DIR = 'a'\n"
    write("AdafactorConfig.decay_rate = 0.5\n", "lib.gin", "include 'gin_configs/base.gin'\n")
    config = load_run([write("", preamble=start)], ["RunConfig.optimizer=@AdafactorConfig()"])
    assert config.optimizer.decay_rate == 0.5
    assert type(load_run(["run.gin"]).optimizer).__name__ == "AdamWConfig"
    write("AdafactorConfig.decay_rate = '0.5'\n", "lib.gin", "include 'gin_configs/base.gin'\n")
    message = "lib.gin:2: AdafactorConfig.decay_rate='0.5' must be a float, not a str. Did you mean 0.5?"
    assert error_of(["run.gin"]) == message
    write("BATCH_SIZ = 5\n", "lib.gin", "include 'gin_configs/base.gin'\n")
    assert error_of(["run.gin"]) == "lib.gin:2: no binding uses the macro BATCH_SIZ. Did you mean 'BATCH_SIZE'?"


def test_a_later_file_may_not_bind_what_it_replaces(write):
    """Its own bindings must still have an effect, though an earlier file's need not have one any more."""
    write("AdamWConfig.b2 = 0.9\n")
    write("RunConfig.optimizer = @AdafactorConfig()\n", "later.gin", "")
    assert load_run(["run.gin", "later.gin"]).optimizer.decay_rate == 0.8
    write("RunConfig.optimizer = @AdafactorConfig()\nAdamWConfig.b1 = 0.9\n", "later.gin", "")
    message = "later.gin:2: AdamWConfig.b1 has no effect: RunConfig.optimizer is @AdafactorConfig() (at later.gin:1)."
    assert error_of(["run.gin", "later.gin"]) == message
