"""Names of source data sets: which are one, which are not. Names of tasks are as FLAN, T0 and NIv2 publish them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from itune.data import identities
from itune.data.identities import add_alias, canonical, is_known, unknown_hint
from itune.errors import UserError


@pytest.fixture(autouse=True)
def _table_as_shipped() -> Iterator[None]:
    yield
    identities._table.cache_clear()


@pytest.mark.parametrize(
    ("expected", "names"),
    [
        ("rte", "rte RTE super_glue/rte glue:rte super_glue_rte glue/rte:2.0.0 super_glue/rte:1.0.2 hf:super_glue/rte"),
        ("rte", "rte_10templates t0/super_glue_rte super_glue_rte_does_it_follow_that nyu-mll/glue:rte"),
        ("rte", "task1344_glue_entailment_classification"),
        ("mnli", "mnli glue/mnli multi_nli MultiNLI nyu-mll/multi_nli mnli_matched glue_mnli_mismatched"),
        ("mnli", "task199_mnli_classification task200_mnli_entailment_classification"),
        ("anli", "anli anli_r1 anli/r2 anli_r3:0.1.0 facebook/anli"),
        ("cb", "super_glue/cb SuperGLUE:CB commitment_bank"),
        ("wsc", "wsc wsc.fixed super_glue/wsc.fixed super_glue_wsc task1390_wscfixed_coreference"),
        ("copa", "super_glue/copa task1393_superglue_copa_text_completion"),
        ("boolq", "boolq bool_q BoolQ google/boolq super_glue/boolq task381_boolq_question_generation"),
        ("cola", "glue/cola task1346_glue_cola_grammatical_correctness_classification"),
        ("squad_v1", "squad squad_v1 squad/v1.1:3.0.0 rajpurkar/squad task075_squad1.1_answer_generation"),
        ("squad_v2", "squad_v2 squad/v2.0 task348_squad2.0_unanswerable_question_generation"),
        ("cnn_dailymail", "cnn_dailymail/3.0.0 cnn_dailymail_3_0_0 cnn_dailymail:3.4.0 t0/cnn_dailymail_3_0_0"),
        ("hotpot_qa", "kilt_tasks_hotpotqa kilt_tasks/hotpotqa hotpot_qa/distractor"),
        ("arc", "ai2_arc/ARC-Challenge arc_easy allenai/ai2_arc"),
        ("winogrande", "winogrande/winogrande_xl task029_winogrande_full_object"),
        ("paws", "paws/labeled_final paws_labeled_final paws_wiki task400_paws_paraphrase_classification"),
        ("imdb", "imdb imdb_reviews stanfordnlp/imdb"),
        ("ag_news", "ag_news ag_news_subset"),
        ("qqp", "glue/qqp glue_qqp quora"),
        ("mmlu", "mmlu cais/mmlu hendrycks_test task685_mmmlu_answer_generation_clinical_knowledge"),
        ("snli", "snli e-SNLI cot_esnli task190_snli_classification task641_esnli_classification"),
        ("gsm8k", "gsm8k openai/gsm8k cot_gsm8k GSM-8K"),
        ("art", "task069_abductivenli_classification abductive_nli"),
        ("math_dataset", "math_dataset/algebra__linear_1d:1.0.0 mathematics_dataset deepmind/math_dataset"),
    ],
)
def test_names_that_mean_one_data_set(expected: str, names: str) -> None:
    assert {name: canonical(name) for name in names.split()} == dict.fromkeys(names.split(), expected)


def test_spaces_are_punctuation_too() -> None:
    assert canonical(" SuperGLUE RTE ") == canonical("super glue - rte") == "rte"


@pytest.mark.parametrize(
    "names",
    [
        "glue super_glue rte cb mnli qnli wnli snli anli xnli",
        "squad_v1 squad_v2 adversarial_qa",
        "rotten_tomatoes opinion_abstracts_rotten_tomatoes opinion_abstracts_idebate",
        "math math_dataset mathqa gsm8k mgsm",
        "yelp_polarity yelp_review_full amazon_polarity",
        "paws paws_x mrpc qqp",
        "wmt14/fr-en wmt16/de-en wmt16/ro-en",
        "story_cloze rocstories",
        "wiki_qa wiki_hop wiki_bio wiqa",
        "record ward/record clinic/drop drop dropbox recorder task_rte my_rte rte_like glue_x/y",
        "part_1/2 part_12",
        "itune/synthetic-clinic/a itune/synthetic-clinic/b",
    ],
)
def test_names_that_must_not_meet(names: str) -> None:
    found = [canonical(name) for name in names.split()]
    assert len(set(found)) == len(found), found


def test_a_suite_is_none_of_its_data_sets() -> None:
    assert not any(map(is_known, ("glue", "super_glue", "SuperGLUE", "t0", "hf", "", "?")))
    assert unknown_hint("SuperGLUE", []).startswith(" It is a suite; name its data sets: boolq, cb, copa,")
    assert unknown_hint("mnlj", []) == " Did you mean 'mnli'?"
    assert unknown_hint("ward-b", ["ward_b"]) == " Did you mean 'ward_b'?"


def test_no_name_of_the_table_leads_to_two() -> None:
    """Nor is one caught on the way by a namespace or a suite."""
    table = yaml.safe_load(identities.TABLE.read_text("utf-8"))
    assert len(table["data_sets"]) > 120
    wrong = {
        (name, target, canonical(name))
        for target, aliases in table["data_sets"].items()
        for name in (target, *aliases)
        if canonical(name) != target
    }
    assert not wrong
    for suite, members in table["suites"].items():
        assert all(canonical(f"{suite}/{member}") == member for member in members)
        assert set(members) <= set(table["data_sets"])
    heads = {identities._normalised(identities._words(name)) for name in (*table["namespaces"], *table["suites"])}
    assert not heads & set(identities._table().names)


def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "names.yaml"
    path.write_text("namespaces: []\nsuites: {}\ndata_sets: {a: [x-y], b: [X Y]}\n")
    monkeypatch.setattr(identities, "TABLE", path)
    identities._table.cache_clear()
    with pytest.raises(UserError, match=r"^names.yaml: 'X Y' is listed under both 'a' and 'b'$"):
        canonical("a")


FLAN_2021 = """
    aeslc cnn_dailymail gigaword multi_news newsroom samsum xsum ag_news_subset opinion_abstracts_rotten_tomatoes
    opinion_abstracts_idebate wiki_lingua_english_en web_nlg_en common_gen e2e_nlg dart squad_v1 squad_v2 drop
    multirc openbookqa bool_q trivia_qa natural_questions arc_challenge arc_easy glue_mrpc glue_qqp paws_wiki stsb
    imdb_reviews sentiment140 yelp_polarity_reviews sst2 true_case fix_punct word_segment copa hellaswag story_cloze
    piqa para_crawl_enes wmt14_enfr wmt16_translate_deen wmt16_translate_tren wmt16_translate_csen
    wmt16_translate_fien wmt16_translate_roen wmt16_translate_ruen definite_pronoun_resolution winogrande wsc
    anli_r1 anli_r2 anli_r3 cb rte mnli_matched mnli_mismatched qnli wnli snli math_dataset quac coqa wic cola trec
    record cosmos_qa
"""


def test_the_flan_2021_sets_are_known() -> None:
    """Every abbreviated task name of FLAN 2021's clusters (Wei et al. 2022, figure 3)."""
    names = FLAN_2021.split()
    assert len(names) == 69
    assert [name for name in names if not is_known(name)] == []
    assert [name for name in names if canonical(f"{name}_10templates") != canonical(name)] == []


T0 = """
    crows_pairs jigsaw_toxicity_pred wino_bias/type1_anti super_glue/wsc.fixed winogrande/winogrande_xl
    super_glue/cb super_glue/rte anli glue/mrpc glue/qqp paws/labeled_final ai2_arc/ARC-Challenge ai2_arc/ARC-Easy
    kilt_tasks/hotpotqa trivia_qa/unfiltered web_questions wiki_qa adversarial_qa/dbidaf adversarial_qa/dbert
    adversarial_qa/droberta duorc/SelfRC duorc/ParaphraseRC ropes squad_v2 super_glue/record quoref cos_e/v1.11
    cosmos_qa dream openbookqa/main qasc quail quarel quartz race/high race/middle sciq social_i_qa super_glue/boolq
    super_glue/copa super_glue/multirc wiki_hop/original wiqa piqa amazon_polarity app_reviews imdb rotten_tomatoes
    yelp_review_full story_cloze/2016 hellaswag common_gen wiki_bio cnn_dailymail/3.0.0 gigaword multi_news samsum
    xsum ag_news dbpedia_14 trec super_glue/wic
"""


def test_the_t0_sets_are_known() -> None:
    """Data set and subset as T0's training and evaluation lists name them (Sanh et al. 2022, table 5)."""
    names = T0.split()
    assert [name for name in names if not is_known(name)] == []
    assert [name for name in names if canonical(name.replace("/", "_")) != canonical(name)] == []


NAMES = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            [*"aZ1/_:.- ", "glue", "super_glue", "RTE", "hf", "t0", "task123", "squad", "v2", "1.0.2", "ÄΣ²"]
        ),
        max_size=7,
    ).map("".join),
)


@given(NAMES)
@settings(max_examples=400, deadline=None, derandomize=True, database=None)
def test_normalising_twice_changes_nothing(name: str) -> None:
    once = canonical(name)
    assert canonical(once) == once
    assert is_known(once) == is_known(name)


# add_alias


def test_a_users_names_join_the_table() -> None:
    assert canonical("our notes") != canonical("ward_b/notes")
    add_alias("ward_b/notes", "our notes", "notes-2024")
    assert canonical("Our_Notes") == canonical("hf:notes_2024") == canonical("Ward B: notes") == "wardbnotes"
    add_alias("super_glue/rte", "in-house entailment")
    assert canonical("task1299_in_house_entailment_yes_no") == "rte"
    add_alias("rte", "in-house entailment")  # said twice is no contradiction
    assert "notes-2024" in identities.known_names()


@pytest.mark.parametrize(
    ("name", "aliases", "message"),
    [
        ("mine", ("fine", "glue:mnli"), r"add_alias\('mine'\): 'glue:mnli' means 'mnli' already"),
        ("mine", ("fine", "SuperGLUE"), r"'SuperGLUE' stands for many data sets"),
        ("t0", ("fine",), r"'t0' stands for many data sets"),
        ("mine", ("fine", "--"), r"'--' has no letter or digit"),
    ],
)
def test_an_alias_that_cannot_be(name: str, aliases: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_alias(name, *aliases)
    assert not is_known("fine"), "all or nothing"


def test_names_never_chain() -> None:
    add_alias("a_set", "b_set")
    with pytest.raises(UserError, match="'a_set' means 'aset' already"):
        add_alias("rte", "a_set")
