"""A module of tasks as SeqIO's users write them: it imports nothing of itune. Copied into a test's folder as it is."""

import functools
import pathlib

import seqio
import tensorflow as tf

HERE = pathlib.Path(__file__).parent
VOCABULARY = seqio.ByteVocabulary()
FEATURES = {
    "inputs": seqio.Feature(VOCABULARY, add_eos=False, required=False),
    "targets": seqio.Feature(VOCABULARY, add_eos=True),
    "scores": seqio.Feature(seqio.PassThroughVocabulary(99), add_eos=False, required=False, dtype=tf.int32),
}
SIZES = {"train": 30, "validation": 4}


def dataset(split, shuffle_files, seed=None):
    del shuffle_files, seed
    numbers = tf.data.Dataset.range(SIZES[split])
    return numbers.map(
        lambda n: {
            "question": tf.strings.join(["number ", tf.strings.as_string(n)]),
            "answer": tf.strings.as_string(n * n),
            "n": n,
        }
    )


@seqio.map_over_dataset
def ask(row, prefix="What is the square of "):
    return {
        "inputs": tf.strings.join([prefix, row["question"], "?"]),
        "targets": row["answer"],
        "n": row["n"],
        "references": tf.stack([row["answer"], row["question"]]),
    }


@seqio.map_over_dataset(num_seeds=1)
def jitter(row, seed):
    extra = tf.random.stateless_uniform([], seed, maxval=10_000, dtype=tf.int32)
    return row | {"inputs": tf.strings.join([row["inputs"], tf.strings.as_string(extra)], separator=" ")}


@seqio.map_over_dataset(num_seeds=2)
def pick(row, seeds):
    words = tf.constant(["please", "now", "quickly", "slowly"])
    drawn = [tf.random.stateless_uniform([], seed, maxval=4, dtype=tf.int32) for seed in seeds]
    return row | {"inputs": tf.strings.join([words[drawn[0]], row["inputs"], words[drawn[1]]], separator=" ")}


def expand(dataset):
    """One row becomes two, and odd rows go."""

    def both(row):
        sides = [row["question"], row["answer"]]
        return tf.data.Dataset.from_tensor_slices({"inputs": sides, "targets": sides[::-1], "n": [row["n"]] * 2})

    doubled = dataset.flat_map(both)
    return doubled.filter(lambda row: row["n"] % 2 == 0)


def exact(targets, predictions):
    return {"exact": 100.0 * sum(t == p for t, p in zip(targets, predictions, strict=True)) / len(targets)}


def as_number(text, example=None, is_target=False):
    del example, is_target
    return int(text) if text.isdigit() else -1


def split_line(dataset):
    def parts(line):
        fields = tf.strings.split(line, "\t")
        return {"inputs": fields[0], "targets": fields[1]}

    return dataset.map(parts)


def parse_json_free(dataset):
    return dataset.map(lambda row: {"inputs": row["text"], "targets": tf.strings.as_string(row["label"])})


def ids_already(dataset):
    """Ids for the model's own vocabulary, made elsewhere."""
    return dataset.map(
        lambda row: {
            "inputs": row["question"],
            "targets": row["answer"],
            "scores": tf.cast([row["n"], row["n"] + 1], tf.int32),
        }
    )


def tiny_lines(files):
    return tf.data.TextLineDataset(files).map(lambda line: {"inputs": "copy: " + line, "targets": line})


PRE = seqio.preprocessors
CACHE = seqio.CacheDatasetPlaceholder()
FUNCTION = seqio.FunctionDataSource(dataset, splits=list(SIZES), num_input_examples=SIZES)
BASIC = [ask, PRE.tokenize, CACHE, PRE.append_eos]


def add(name, source=FUNCTION, steps=BASIC, features=FEATURES, **more):
    seqio.TaskRegistry.add(name, source=source, preprocessors=steps, output_features=features, **more)


add("function", metric_fns=[exact], postprocess_fn=as_number)
add("trimmed", steps=[ask, PRE.tokenize, CACHE, PRE.append_eos_after_trim])
add("no_eos", steps=[ask, PRE.tokenize])
add("rekeyed", steps=[functools.partial(PRE.rekey, key_map={"inputs": "question", "targets": "answer"}), *BASIC[1:]])
add("prefixed", steps=[functools.partial(ask, prefix="Square: "), *BASIC[1:]])
add("seeded", steps=[ask, jitter, CACHE, pick, PRE.tokenize, PRE.append_eos])
add("expanded", steps=[expand, *BASIC[1:]])
add("targets_only", steps=[functools.partial(PRE.rekey, key_map={"inputs": None, "targets": "question"}), *BASIC[1:]])

LINES = {split: str(HERE / f"{split}-*.tsv") for split in SIZES}
add("lines", seqio.TextLineDataSource(LINES, skip_header_lines=1, num_input_examples=SIZES), [split_line, *BASIC[1:]])
EXAMPLES = {split: str(HERE / f"{split}.tfrecord") for split in SIZES}
SPEC = {"text": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}
add("examples", seqio.TFExampleDataSource(EXAMPLES, SPEC), [parse_json_free, *BASIC[1:]])
FILES = {split: str(HERE / f"{split}-*.txt") for split in SIZES}
add("files", seqio.FileDataSource(tiny_lines, FILES), BASIC[1:])
add(
    "tfds",
    seqio.TfdsDataSource(tfds_name="sentences:1.0.0", tfds_data_dir=str(HERE / "tfds"), splits=list(SIZES)),
    [parse_json_free, *BASIC[1:]],
)
add("passed_through", steps=[ids_already, *BASIC[1:]])

TEXT_SOURCE = seqio.experimental.FewshotDataSource(
    FUNCTION,
    num_shots=2,
    train_preprocessors=[ask],
    eval_preprocessors=[ask],
    train_split="train",
    train_feature_keys=("inputs", "targets"),
)
SHOTS = functools.partial(seqio.experimental.fewshot_preprocessor, inputs_prefix="Q: ", targets_prefix=" A: ")
add("fewshot", TEXT_SOURCE, [SHOTS, *BASIC[1:]])

SCALED = functools.partial(seqio.mixing_rate_num_examples, maximum=25, scale=2.0, temperature=2.0)
seqio.MixtureRegistry.add("pair", [("function", 1.0), ("trimmed", 3.0)])
seqio.MixtureRegistry.add("sized", ["function", "lines"], default_rate=SCALED)
seqio.MixtureRegistry.add("nested", [("pair", 2.0), ("sized", 1.0), ("seeded", lambda task: len(task.name) / 4)])
seqio.MixtureRegistry.add("deep", ["nested", ("function", 0.5)], default_rate=0.25)
TASKS = seqio.TaskRegistry.names()
seqio.MixtureRegistry.add("everything", [(name, 1.0) for name in sorted(TASKS)])
