"""The model card of a converted run: what it was made of, how to prompt it, its licences. No text of the data."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data.licences import NON_COMMERCIAL, terms_of
from itune.data.licences import UNKNOWN as UNKNOWN_TERMS
from itune.data.licences import strictest as data_strictest

MARK = "written by itune."
UNKNOWN = ("", "unknown", "none", "other")
TASKS_SHOWN = 60


def write_card(
    folder: Path, *, name: str, base: Path, source: str, run: Path | None, step: int | None, what: str, library: str
) -> None:
    """README.md in `folder`, and SOURCE.json, by which a further card knows what this one says.

    run: None for weights that were converted as they are.  what: "bfloat16 weights", ...  library: that loads it.
    """
    named = source.removeprefix("hf:")
    facts = _facts(base)
    base_name = str(facts.get("name") or facts.get("file") or (named if named != source else base.name))
    lines = [f"# {name}", "", f"{what}, {MARK}"]
    if run is None:
        licence = str(facts.get("licence") or "")
        lines += ["", f"Converted from {base_name}, not tuned."]
    else:
        manifest, config = _read(run / "manifest.json"), _read(run / "config.json")
        licence = strictest(str(facts.get("licence") or ""), manifest)
        lines += ["", f"{base_name}, tuned with itune to step {step}."]
        if quantised := config.get("weights", {}).get("quantise"):
            lines += [
                "",
                f"The base was held as {quantised} while adapters were trained; it is written as it was read.",
            ]
        lines += _prompting(config) + _mixture(run, manifest) + _results(run, config, step) + _licences(facts, manifest)
    if precision := facts.get("precision"):
        lines += ["", "## Precision of the base", "", f"{precision} (from {facts.get('file')})."]
    if earlier := facts.get("tuned"):
        lines += ["", "## Tuned before", "", *(f"- {line}" for line in earlier)]
    front = ["---", *_licence_fields(licence), f"base_model: {json.dumps(base_name)}"]
    front += [f"library_name: {library}", "tags: [itune, instruction-tuning]", "---", ""]
    (folder / "README.md").write_text("\n".join([*front, *lines]) + "\n", "utf-8")
    kept: dict[str, Any] = {
        key: facts[key] for key in ("file", "quantised", "precision", "instruction_tuned") if key in facts
    }
    tuned = [*facts.get("tuned", [])]
    if run is not None:
        tuned.append(f"{base_name} on `{_read(run / 'manifest.json').get('mixture', '?')}` to step {step}")
    record: dict[str, Any] = {**kept, "name": base_name if run is None else name, "licence": licence, "tuned": tuned}
    (folder / "SOURCE.json").write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _facts(base: Path) -> dict[str, Any]:
    """SOURCE.json of a folder that we made; of another the licence that its own card declares."""
    if facts := _read(base / "SOURCE.json"):
        return facts
    try:
        card = (base / "README.md").read_text("utf-8", "replace")
    except OSError:
        return {}
    front = re.match(r"---\n(.*?)\n---", card, re.S)
    for field in ("license_name", "license"):
        if front and (declared := re.search(rf"^{field}: *[\"']?([^\n\"']+)", front[1], re.M)):
            return {"licence": declared[1].strip()}
    return {}


def _licence_fields(licence: str) -> list[str]:
    """As the hub spells it: one plain identifier is itself, anything else is "other" with a name."""
    if re.fullmatch(r"[A-Za-z0-9.-]+", licence):
        return [f"license: {licence.lower()}"]
    return ["license: other", f"license_name: {json.dumps(licence or 'unknown')}"]


def strictest(base: str, manifest: Mapping[str, Any]) -> str:
    """Of the base's licence and the trained tasks': those that forbid commercial use stand before others."""
    found = sorted({base, *(str(task.get("licence") or "") for task in manifest.get("train", []))})
    named = [licence for licence in found if licence.lower() not in UNKNOWN]
    strict = [licence for licence in named if terms_of(licence) == NON_COMMERCIAL]
    parts = ["; ".join(strict or named)] if named else []
    if len(named) < len(found):
        parts.append("unknown for a part of it")
    return "; ".join(parts)


def _prompting(config: Mapping[str, Any]) -> list[str]:
    form = config.get("data", {}).get("prompt_format", "plain")
    how = {
        "seq2seq": ["The encoder reads the instruction, ended by EOS (tokenizers of T5 add it); the decoder replies."],
        "plain": [
            'The prompt is the instruction and a newline; the reply ends with EOS: `"Explain what a fever is.\\n"`.'
        ],
        "continued": ["The reply goes on where the prompt ends, behind a blank; it ends with EOS."],
        "chat": [
            "Prompts go through the tokenizer's chat template; a reply ends with its turn: "
            '`tokenizer.apply_chat_template([{"role": "user", "content": "Explain what a fever is."}], '
            "add_generation_prompt=True)`."
        ],
    }
    return ["", "## How to prompt it", "", *how.get(form, [f"Prompt format {form!r} of itune."])]


def _mixture(run: Path, manifest: Mapping[str, Any]) -> list[str]:
    summary = _read(run / "proportions.json").get("summary", {})
    tasks = sorted(summary.get("tasks", {}).items(), key=lambda item: -item[1].get("share_got", 0))
    lines = [
        "",
        "## What it was tuned on",
        "",
        f"Mixture `{manifest.get('mixture', '?')}`; itune_config.gin has every setting.",
    ]
    if tasks:
        lines += [
            "",
            "| task | cluster | share | examples | target tokens | epochs |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        for task, row in tasks[:TASKS_SHOWN]:
            lines.append(
                f"| {task} | {row['cluster']} | {row['share_got']:.1%} | {row['examples']:,} | "
                f"{row['supervised_tokens']:,} | {row['epochs']:.2f} |"
            )
    if len(tasks) > TASKS_SHOWN:
        lines += ["", f"and {len(tasks) - TASKS_SHOWN} more."]
    held = sorted({str(task.get("name")) for task in manifest.get("held_out", [])})
    return lines + (["", f"Held out of training: {', '.join(held)}."] if held else [])


def _results(run: Path, config: Mapping[str, Any], step: int | None) -> list[str]:
    if step != config.get("train", {}).get("steps"):
        return []  # evaluation.json is of the last step
    pooled = _read(run / "evaluation.json").get("pooled") or {}
    rows = []
    for which, said in (("held_in", "tasks it was tuned on, unseen examples"), ("held_out", "tasks it never saw")):
        if found := pooled.get(which):
            losses = f"{found['loss_before']:.3f} | {found['loss_after']:.3f}"
            rows.append(f"| {said} | {found['n']} | {losses} | {found['improved']} |")
    if not rows:
        return []
    head = ["| | examples | loss before | loss after | improved |", "| --- | ---: | ---: | ---: | ---: |"]
    return ["", "## Evaluation", "", "Nats a target token, pooled over tasks.", "", *head, *rows]


def _licences(source: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    by_licence: dict[str, list[str]] = {}
    for task in manifest.get("train", []):
        by_licence.setdefault(str(task.get("licence") or "unknown"), []).append(str(task.get("name")))
    lines = ["", "## Licences", "", f"- base model: {source.get('licence') or 'unknown'}"]
    for licence, names in sorted(by_licence.items()):
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        lines.append(f"- {licence}: {len(names)} tasks ({shown})")
    if by_licence:
        lines += ["", _terms(sorted(by_licence))]
    if manifest.get("sensitive") or any(task.get("sensitive") for task in manifest.get("train", [])):
        lines += [
            "",
            "Tuned on sensitive text: weights can hold what they were trained on. Share them as you would the data.",
        ]
    return lines


def _terms(licences: Sequence[str]) -> str:
    """ "The strictest terms of what it was tuned on: non-commercial (CC-BY-NC-4.0)." """
    terms = data_strictest(licences)
    under = [licence for licence in licences if terms_of(licence) == terms]
    some = (
        " Of a part of it they are unknown."
        if terms != UNKNOWN_TERMS and UNKNOWN_TERMS in map(terms_of, licences)
        else ""
    )
    return (
        f"The strictest terms of what it was tuned on, as its licences are called: {terms} ({'; '.join(under)}).{some}"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
