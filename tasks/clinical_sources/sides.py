"""Which side of the split a row is on, so that no text is on both. Pure Python."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

from itune.data import hold_out, normalise

VALIDATION_FRACTION = 0.1
PASSAGE = 13  # words in a row that two texts do not share by chance; itune's lint looks for as many
SHORTEST = 8  # a text of fewer words ("The patient denies any allergies.") is nobody's in particular

Row = dict[str, str]


def passages(*texts: str, size: int = PASSAGE) -> set[str]:
    """Every `size` words in a row, and a shorter text whole if it has SHORTEST words: ("one two ... eight")."""
    found = set()
    for text in texts:
        words = normalise(text).split()
        if len(words) >= SHORTEST:
            found |= {" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}
    return found


def connected(keys: Sequence[Iterable[Hashable]]) -> list[int]:
    """Groups of rows that share a key, directly or through others: [{a}, {b}, {a, c}, {c}] -> [0, 1, 0, 0]."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for index, mine in enumerate(keys):
        for key in mine:
            a, b = root(index), root(first.setdefault(key, index))
            parent[max(a, b)] = min(a, b)
    return [root(i) for i in range(len(keys))]


def held_out(keys: Sequence[Iterable[Hashable]], ids: Sequence[str], *, identity: str) -> list[bool]:
    """True for the validation rows: about a tenth, whole groups of `connected` rows, by a keyed hash of their ids."""
    return hold_out(connected(keys), ids, identity=identity, fraction=VALIDATION_FRACTION)


def divided(split: str, rows: Sequence[Row], keys: Sequence[Iterable[Hashable]], *, identity: str) -> Iterator[Row]:
    """The rows of `split`; of those with the same id, the first."""
    seen = set()
    sides = held_out(keys, [row["id"] for row in rows], identity=identity)
    for row, held in zip(rows, sides, strict=True):
        if held == (split == "validation") and row["id"] not in seen:
            seen.add(row["id"])
            yield row


def published(
    split: str,
    train: Sequence[tuple[Row, Iterable[Hashable]]],
    test: Sequence[tuple[Row, Iterable[Hashable]]],
) -> Iterator[Row]:
    """The owner's split, (row, keys) each: a training row that shares a key with a test row is left out."""
    tested = {key for _, keys in test for key in keys}
    seen = set()
    for row, keys in train if split == "train" else test:
        if row["id"] not in seen and (split != "train" or tested.isdisjoint(keys)):
            seen.add(row["id"])
            yield row
