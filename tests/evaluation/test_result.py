"""Means, standard errors, failures."""

from __future__ import annotations

import numpy as np
import pytest

from hm3rl.evaluation.result import Evaluation


def test_means_and_standard_errors_come_from_the_items() -> None:
    scores = {"a": [1.0, 0.0, 1.0, 1.0], "b": [0.5, 0.5]}
    nll = {"a": [1.0, 2.0, 3.0, 4.0], "b": [0.25, 0.75]}
    evaluation = Evaluation.of_items("k", "search", scores, nll, None, {"model": 1.0, "other": 0.5})
    assert evaluation.tasks == ("a", "b")
    assert evaluation.scores == (0.75, 0.5)
    # For zeros and ones: sqrt(p (1 - p) / (n - 1)).
    assert evaluation.standard_errors == pytest.approx((np.sqrt(0.75 * 0.25 / 3), 0.0))
    assert evaluation.nll == (2.5, 0.5)
    assert evaluation.vector.tolist() == [0.75, 0.5]
    assert evaluation.total_seconds == 1.5
    assert evaluation.ok


def test_a_failure_has_no_scores_and_no_vector() -> None:
    failure = Evaluation.failure("k", "search", ("a", "b"), "Traceback ...", {"other": 0.1})
    assert not failure.ok
    assert failure.scores == ()
    with pytest.raises(ValueError, match="failed and has no scores"):
        _ = failure.vector
    assert failure.error == "Traceback ..."
