"""Accuracy measured through the tree of paths equals running each path alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from continuer.bundle import Bundle
from continuer.runtime import PathRunner
from models import accuracy, images


def test_tree_shares_common_beginnings() -> None:
    root = accuracy.tree([("a", "b", "c"), ("a", "b", "x"), ("a", "c"), ("a", "b")])
    a = root.children["a"]
    assert list(root.children) == ["a"]
    assert list(a.children) == ["b", "c"]
    assert list(a.children["b"].children) == ["c", "x"]
    found = [a.children["b"].children["c"], a.children["b"].children["x"], a.children["c"]]
    assert [node.variant for node in [*found, a.children["b"], a]] == [0, 1, 2, 3, None]


def test_counts_equal_those_of_each_path_alone(
    shipped: Bundle, prepared: tuple[npt.NDArray[np.float32], images.Labels]
) -> None:
    inputs, labels = prepared[0][:30], prepared[1][:30]
    measured = accuracy.measure(shipped, inputs, labels, longest_skip=2, processes=1)
    assert len(measured) == 1 + 14 + 15 + 14
    runner = PathRunner(shipped)
    for variant in measured:
        path = shipped.path(variant.skipped, variant.exit)
        logits = np.stack([runner.run(path, [image[None]])[0][0] for image in inputs])
        assert variant.correct == int((logits.argmax(1) == labels).sum()), variant
        assert variant.total == 30
    # Were the counts all alike, equality would prove little.
    assert len({variant.correct for variant in measured}) > 3
