"""Which rows are held out for validation: by key of their text, so that no text is on both sides. Pure Python."""

from __future__ import annotations

import collections
import hashlib
import re
from collections.abc import Hashable, Sequence

_WORD = re.compile(r"\w+")


def normalise(text: str) -> str:
    """Words only, case folded: `" Is it  HIGH?"` -> `"is it high"`. Texts that differ in less are the same text."""
    return " ".join(_WORD.findall(text.casefold()))


def text_key(*texts: str) -> str:
    """A stable id of texts: 16 hex digits of BLAKE2b over their UTF-8, length-prefixed."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def split_of(key: str, *, identity: str, validation_fraction: float) -> str:
    """ "train" or "validation", from a hash of (identity, key) alone: rows may come, go and move, a key stays put."""
    score = int(text_key("split", identity, key), 16) / 2**64
    return "validation" if score < validation_fraction else "train"


def passage_groups(
    prompts: Sequence[str],
    targets: Sequence[str],
    templates: Sequence[Hashable],
    *,
    passage: int = 8,
    shortest: int = 5,
    common: float = 0.4,
) -> list[int]:
    """Groups ready-made prompts that share source text; which source row each was made from is not recorded.

    Collections such as P3 render one source row through several templates. Wording of a template is what many of its
    prompts have in common: word trigrams in more than `common` of them (and in more than three). It is taken out; the
    rest falls into stretches of source text. Two rows are in one group if

    - prompt or target share `passage` consecutive words of those (a stretch that is shorter, but has at least
      `shortest` words, counts whole), or
    - nothing but wording tells their prompts apart, however short,

    and groups are closed under this. `common` lies between how often a template's optional wording occurs and the
    share of its rows that one long source can have (28 % in T0's sample).

    Returns: for each row the index of its group's first row.
    """
    members: dict[Hashable, list[int]] = collections.defaultdict(list)
    for index, template in enumerate(templates):
        members[template].append(index)
    parent = list(range(len(prompts)))
    first: dict[tuple[str, ...], int] = {}
    for indices in members.values():
        sides = {i: [_WORD.findall(text.casefold()) for text in (prompts[i], targets[i])] for i in indices}
        wording = _common_trigrams([words for words, _ in sides.values()], common)
        for index, (prompt, target) in sides.items():
            stretches = _stretches(prompt, wording)
            keys = [("prompt", *prompt), ("content", *(word for stretch in stretches for word in stretch))]
            for stretch in stretches + _stretches(target, wording):
                if len(stretch) >= shortest:
                    size = min(passage, len(stretch))
                    keys += [tuple(stretch[j : j + size]) for j in range(len(stretch) - size + 1)]
            for key in keys:
                if len(key) > 2:  # one word or none says nothing about the source
                    _join(parent, index, first.setdefault(key, index))
    return [_root(parent, i) for i in range(len(prompts))]


def hold_out(groups: Sequence[Hashable], keys: Sequence[str], *, identity: str, fraction: float) -> list[bool]:
    """True for the rows of whole groups that together make up at most `fraction` of all rows, and at least one group.

    Groups are taken in the order of a keyed hash of their smallest key; one that would overfill is passed over. A
    single group is never held out: training keeps it.
    """
    sizes = collections.Counter(groups)
    if len(sizes) < 2:
        return [False] * len(groups)
    smallest: dict[Hashable, str] = {}
    for group, key in zip(groups, keys, strict=True):
        smallest[group] = min(key, smallest.get(group, key))
    order = sorted(sizes, key=lambda g: text_key("hold_out", identity, smallest[g]))
    room = fraction * len(groups)
    held: set[Hashable] = set()
    for group in order:
        if sizes[group] <= room:
            held.add(group)
            room -= sizes[group]
    if not held:
        held.add(min(order, key=lambda g: sizes[g]))
    return [group in held for group in groups]


def _common_trigrams(texts: Sequence[list[str]], common: float) -> set[tuple[str, ...]]:
    counts: collections.Counter[tuple[str, ...]] = collections.Counter()
    for text in texts:
        counts.update({tuple(text[j : j + 3]) for j in range(len(text) - 2)})
    limit = max(3.0, common * len(texts))
    return {gram for gram, count in counts.items() if count > limit}


def _stretches(words: Sequence[str], wording: set[tuple[str, ...]]) -> list[list[str]]:
    kept = [True] * len(words)
    for j in range(len(words) - 2):
        if tuple(words[j : j + 3]) in wording:
            kept[j] = kept[j + 1] = kept[j + 2] = False
    stretches: list[list[str]] = [[]]
    for word, keep in zip(words, kept, strict=True):
        if keep:
            stretches[-1].append(word)
        elif stretches[-1]:
            stretches.append([])
    return [s for s in stretches if s]


def _root(parent: list[int], i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


def _join(parent: list[int], a: int, b: int) -> None:
    """The smaller index leads, so a group is named by its first member."""
    a, b = _root(parent, a), _root(parent, b)
    parent[max(a, b)] = min(a, b)
