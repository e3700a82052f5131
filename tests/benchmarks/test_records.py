"""benchmarks/: the results page says what the records say; a peer's batches become ours token for token."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import peer_batches, results


def test_results_are_those_of_the_records():
    assert results.RESULTS.read_text("utf-8") == results.text(), "stale: python benchmarks/results.py"


def peer_batch() -> dict[str, np.ndarray]:
    """One flattened row of three examples, of 3, 4 and 3 tokens, and one of padding."""
    return {
        "tokens": np.array([[[11, 12, 13, 21, 22, 23, 24, 31, 32, 33, 0]]]),
        "labels": np.array([[[-100, -100, 13, -100, 22, -100, 24, -100, -100, 33, -100]]]),
        "segment_ids": np.array([[[1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 0]]]),
        "positions": np.array([[[0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 0]]]),
    }


def test_a_peers_batch_keeps_its_examples_and_predictions():
    ours, segments = peer_batches.convert(peer_batch(), length=8, batch_size=2)
    assert segments == 2
    np.testing.assert_array_equal(ours["tokens"][0], [[11, 12, 13, 21, 22, 23, 24, 0], [31, 32, 33, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(ours["segment_ids"][0], [[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(ours["positions"][0, 0], [0, 1, 2, 0, 1, 2, 3, 0])
    row, at = np.nonzero(ours["loss_weights"][0])
    # A target is predicted where the token before it stands.
    np.testing.assert_array_equal(ours["tokens"][0][row, ours["loss_index"][0][row, at]], [12, 21, 23, 32])
    np.testing.assert_array_equal(ours["loss_targets"][0][row, at], [13, 22, 24, 33])


def test_a_peers_batch_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="batch 0 needs 2 rows of 8, and the step has 1"):
        peer_batches.convert(peer_batch(), length=8, batch_size=1)
