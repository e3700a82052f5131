"""Suites from files in their owners' layouts, made up here: prompts, answers, what is wrong in one line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from itune.data import registry
from itune.data.collections.suites import (
    SuiteTemplate,
    all_answers,
    bbh_exemplars,
    bbh_tasks,
    before_next,
    mgsm_tasks,
    mmlu_tasks,
    said_answer,
    tydiqa_tasks,
)
from itune.data.config import DataConfig
from itune.data.manifest import Request
from itune.data.prepare import resolve_groups
from itune.data.prepare_failures import Failures
from itune.errors import UserError
from itune.evaluation.config import EvalConfig

BBH_PROMPT = """BIG-bench data must not be trained on. canary
-----
Follow the steps.

Q: What is left of 3 - 1?
Options:
(A) 1
(B) 2
A: Let's think step by step.
3 - 1 is 2. So the answer is (B).

Q: And of 2 - 1?
Options:
(A) 1
(B) 2
A: Let's think step by step.
That is 1. So the answer is (A)."""

EXEMPLARS = """EXEMPLAR_NUMBER_ANSWERS = [5, 3, 0, 0, 0, 0, 0, 0, 0, 4]
MGSM_EXEMPLARS = {
    "de": {
        "2": {"q": "Frage: Zwei Äpfel und einer?", "a": "Schritt: 2+1=3. Die Antwort ist 3."},
        "10": {"q": "Frage: Vier?", "a": "Schritt: Die Antwort ist 4."},
    },
    "zh": {"1": {"q": "问题：五？", "a": "逐步解答：答案是 5。"}},
}
raise SystemExit("this is never run")
"""


def rows(name: str, shots: int | None = None) -> list[dict[str, str]]:
    """With the prompt that is made of each."""
    found = list(registry.get(name).source.each_row("validation"))
    return [row | {"prompt": SuiteTemplate(shots=shots).render(row)[0]} for row in found]


def reasoning(mixture: str, asked: str) -> list[str]:
    """The tasks that are evaluated in place of the mixture's."""
    data = DataConfig(mixture=mixture, split="validation")
    request = Request.from_config(data, EvalConfig(reasoning=asked), Path("model"), cache=Path("cache"))
    groups = resolve_groups(request, Failures(request))
    assert groups["train"] == groups["held_in"], "nothing is trained on"
    return [info.name for info, _ in groups["held_in"]]


def write_csv(path: Path, lines: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


def test_mmlu(tmp_path):
    write_csv(tmp_path / "dev" / "world_religions_dev.csv", [[f"dev {n}?", "1", "2", "3", "4", "B"] for n in range(6)])
    asked = ['Who, said\n"so"?', "a", "b", "c", "d", "C"]
    write_csv(tmp_path / "test" / "world_religions_test.csv", [asked, asked, ["Why?", "a", "b", "c", "d", "A"]])
    assert mmlu_tasks(tmp_path, name="suite_mmlu") == ["suite_mmlu/world_religions"]
    first, second = rows("suite_mmlu/world_religions")  # what stands there twice is asked once
    assert first["prompt"].startswith(
        "The following are multiple choice questions (with answers) about world religions.\n\n"
    )
    assert first["prompt"].count("Answer: B\n\n") == 5 and "dev 5?" not in first["prompt"]
    assert first["prompt"].endswith('\n\nWho, said\n"so"?\nA. a\nB. b\nC. c\nD. d\nAnswer:')
    assert (first["answer"], json.loads(first["options"]), second["answer"]) == ("C", list("ABCD"), "A")
    zero, _ = rows("suite_mmlu/world_religions", 0)
    assert zero["prompt"].count("Answer:") == 1 and zero["prompt"].startswith("The following")
    with pytest.raises(UserError, match="reasoning='on': there is no such task in place of 'suite_mmlu/world_relig"):
        reasoning("suite_mmlu", "on")
    with pytest.raises(UserError, match="EvalConfig.shots=6: the suite has 5 exemplars"):
        rows("suite_mmlu/world_religions", 6)
    task = registry.get("suite_mmlu/world_religions")
    assert tuple(task.splits) == ("validation",), "nothing to train on"
    write_csv(tmp_path / "test" / "virology_test.csv", [asked])
    mmlu_tasks(tmp_path, name="suite_mmlu2")
    for answer in ("E", "AB", ""):
        write_csv(tmp_path / "dev" / "virology_dev.csv", [["q", "1", "2", "3", "4", answer]])
        with pytest.raises(UserError, match=r"virology_dev.csv: a row is a question, four options"):
            rows("suite_mmlu2/virology")
    with pytest.raises(UserError, match=r"no test/<subject>_test.csv in it"):
        mmlu_tasks(tmp_path / "dev")


def test_bbh(tmp_path):
    (tmp_path / "bbh").mkdir()
    (tmp_path / "cot-prompts").mkdir()
    examples = [{"input": "Of 9 - 8?\nOptions:\n(A) 1\n(B) 2", "target": "(A)"}]
    (tmp_path / "bbh" / "sums.json").write_text(json.dumps({"canary": "x", "examples": examples}))
    (tmp_path / "cot-prompts" / "sums.txt").write_text(BBH_PROMPT)
    assert bbh_tasks(tmp_path, name="suite_bbh") == ["suite_bbh/sums", "suite_bbh/sums_cot"]
    (direct,), (cot,) = rows("suite_bbh/sums"), rows("suite_bbh/sums_cot")
    assert direct["prompt"] == (
        "Follow the steps.\n\nQ: What is left of 3 - 1?\nOptions:\n(A) 1\n(B) 2\nA: (B)\n\n"
        "Q: And of 2 - 1?\nOptions:\n(A) 1\n(B) 2\nA: (A)\n\nQ: Of 9 - 8?\nOptions:\n(A) 1\n(B) 2\nA:"
    )
    assert (reasoning("suite_bbh", "on"), reasoning("suite_bbh", "off")) == (["suite_bbh/sums_cot"], ["suite_bbh/sums"])
    assert reasoning("suite_bbh_cot", "off") == ["suite_bbh/sums"]
    assert "3 - 1 is 2. So the answer is (B).\n\nQ: And" in cot["prompt"] and "canary" not in cot["prompt"]
    assert cot["prompt"].endswith("A: Let's think step by step.") and cot["answer"] == "(A)"
    assert said_answer("So 1. So the answer is (A).\n\nQ: more") == "(A)" and said_answer("(A)") == "(A)"
    assert said_answer("So the answer is 1.\n\nQ: 2?\nA: So the answer is 2.") == "1"
    assert before_next("(A)\n\nQ: What?\nA: (B)") == "(A)" and before_next("Q: x", is_target=True) == "Q: x"
    assert said_answer("the answer is x", is_target=True) == "the answer is x"
    with pytest.raises(UserError, match=r"there.txt: no exemplar of the form"):
        bbh_exemplars("Q: nothing", "there.txt")


def test_mgsm(tmp_path):
    (tmp_path / "mgsm_de.tsv").write_text("Wie viele?\t1,250\nWie oft?\t2\n")
    (tmp_path / "exemplars.py").write_text(EXEMPLARS)
    assert mgsm_tasks(tmp_path, name="suite_mgsm", shots=8) == ["suite_mgsm/de", "suite_mgsm/de_direct"]
    first, _ = rows("suite_mgsm/de")
    assert first["prompt"] == (
        "Frage: Zwei Äpfel und einer?\nSchritt: 2+1=3. Die Antwort ist 3.\n\n"
        "Frage: Vier?\nSchritt: Die Antwort ist 4.\n\nFrage: Wie viele?\nSchritt:"
    )
    assert first["answer"] == "1,250"
    assert before_next("Die Antwort ist 3.\n\nFrage: Und 4?\nSchritt: 4", example={"field/next": b"Frage:"}) == (
        "Die Antwort ist 3."
    )
    direct, _ = rows("suite_mgsm/de_direct", 1)
    assert direct["prompt"] == "Frage: Zwei Äpfel und einer?\nSchritt: 3\n\nFrage: Wie viele?\nSchritt:"
    (tmp_path / "only_zh").mkdir()
    (tmp_path / "only_zh" / "mgsm_zh.tsv").write_text("几？\t1\n")
    (tmp_path / "only_zh" / "exemplars.py").write_text(EXEMPLARS)
    mgsm_tasks(tmp_path / "only_zh", name="suite_mgsm_zh")
    chinese = {name: rows(f"suite_mgsm_zh/{name}")[0]["prompt"] for name in ("zh", "zh_direct")}
    assert chinese["zh"] == "问题：五？\n逐步解答：答案是 5。\n\n问题：几？\n逐步解答："
    assert chinese["zh_direct"] == "问题：五？\n逐步解答：5\n\n问题：几？\n逐步解答："
    found = {asked: reasoning("suite_mgsm", asked) for asked in ("", "on", "off")}
    assert found == {"": ["suite_mgsm/de"], "on": ["suite_mgsm/de"], "off": ["suite_mgsm/de_direct"]}
    assert reasoning("suite_mgsm_direct", "on") == ["suite_mgsm/de"]
    (tmp_path / "mgsm_sw.tsv").write_text("Ngapi?\t1\n")
    mgsm_tasks(tmp_path, name="suite_mgsm2")
    with pytest.raises(UserError, match="MGSM_EXEMPLARS has none of 'sw'"):
        rows("suite_mgsm2/sw")
    (tmp_path / "exemplars.py").write_text(EXEMPLARS.partition("\n")[2])
    mgsm_tasks(tmp_path, name="suite_mgsm3")
    with pytest.raises(UserError, match=r"exemplars.py: has no EXEMPLAR_NUMBER_ANSWERS"):
        rows("suite_mgsm3/de")


def test_tydiqa(tmp_path):
    def squad(*found: tuple[str, str, str, list[str]]) -> str:
        paragraphs = [
            {
                "context": c,
                "qas": [{"id": i, "question": q, "answers": [{"text": a, "answer_start": 0} for a in answers]}],
            }
            for i, c, q, answers in found
        ]
        return json.dumps({"data": [{"paragraphs": paragraphs}]})

    (tmp_path / "tydiqa-goldp-v1.1-dev").mkdir()
    train = [
        ("swahili-1-0", "s", "q?", ["s"]),
        ("english-9-0", "long text", "q9?", ["text"]),
        ("english-3-0", "text", "q3?", ["te"]),
    ]
    (tmp_path / "tydiqa-goldp-v1.1-train.json").write_text(squad(*train))
    dev = tmp_path / "tydiqa-goldp-v1.1-dev" / "tydiqa-goldp-dev-english.json"
    dev.write_text(squad(("english-1-0", "A passage.", "What?", ["one", "won"])))
    assert tydiqa_tasks(tmp_path, name="suite_tydi") == ["suite_tydi/english"]
    (row,) = rows("suite_tydi/english")
    assert (
        row["prompt"] == "Passage: text\n\nQuestion: q3?\nAnswer: te\n\nPassage: A passage.\n\nQuestion: What?\nAnswer:"
    )
    task = registry.get("suite_tydi/english")
    assert task.postprocess_fn("one", example={"field/answers": row["answers"]}, is_target=True) == ["one", "won"]
    assert all_answers("two", example={"answers": row["answers"]}) == "two"
    dev.write_text(json.dumps({"data": [{"paragraphs": [{}]}]}))
    tydiqa_tasks(tmp_path, name="suite_tydi2")
    with pytest.raises(UserError, match=r"english.json: not in SQuAD's layout \(KeyError"):
        rows("suite_tydi2/english")
