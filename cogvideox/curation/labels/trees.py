"""Ensembles of decision trees as plain arrays: trained by scikit-learn, stored and evaluated without it.

Axes: `n` clips, `d` features, `k` nodes of all trees.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32


@dataclass(frozen=True, eq=False)
class TreeEnsemble:
    """Decision trees whose leaves hold the probability of a label. Children have larger indices than their parent.

    Attributes:
        feature: index of the feature that a node compares; -1 in a leaf.
        threshold: threshold of a node; rows with feature <= threshold go left, the rest go right.
        left, right: indices of the children.
        value: probability in a leaf.
        roots: index of each tree's root.
    """

    feature: Int32[np.ndarray, " k"]
    threshold: Float32[np.ndarray, " k"]
    left: Int32[np.ndarray, " k"]
    right: Int32[np.ndarray, " k"]
    value: Float32[np.ndarray, " k"]
    roots: Int32[np.ndarray, " trees"]

    def predict(self, matrix: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
        """Return the mean probability over the trees. The matrix must not contain NaN."""
        matrix = matrix.astype(np.float32)  # as scikit-learn does, so that thresholds compare equally
        rows = np.arange(len(matrix))
        total = np.zeros(len(matrix))
        for root in self.roots:
            node = np.full(len(matrix), root)
            while (inner := self.feature[node] >= 0).any():
                below = matrix[rows, np.maximum(self.feature[node], 0)] <= self.threshold[node]
                node = np.where(inner, np.where(below, self.left[node], self.right[node]), node)
            total += self.value[node]
        return total / len(self.roots)

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays by tensor name, for writing to a file."""
        return {f"{prefix}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], prefix: str, num_features: int) -> "TreeEnsemble":
        """Build the ensemble from the tensors of a file.

        Raises:
            ValueError: the tensors are not an ensemble over this number of features.
        """
        trees = cls(**{field.name: tensors[prefix + field.name] for field in fields(cls)})
        size = len(trees.feature)
        nodes = np.arange(size)
        inner = trees.feature >= 0
        later = (trees.left > nodes) & (trees.left < size) & (trees.right > nodes) & (trees.right < size)
        equal = all(len(getattr(trees, field.name)) == size for field in fields(cls) if field.name != "roots")
        known = bool((trees.feature < num_features).all() and (trees.roots >= 0).all() and (trees.roots < size).all())
        if not (equal and known and bool(later[inner].all()) and len(trees.roots)):
            raise ValueError(f"{prefix}: not a tree ensemble")
        return trees


def fit_trees(
    matrix: Float64[np.ndarray, "n d"], truth: Float64[np.ndarray, " n"], *, num_trees: int, seed: int
) -> TreeEnsemble:
    """Train extremely randomized trees (Geurts et al. 2006), with both classes weighted equally."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(
        num_trees, min_samples_leaf=2, max_features=0.3, class_weight="balanced", random_state=seed, n_jobs=1
    )
    forest.fit(matrix, truth > 0.5)
    return from_sklearn(forest)


def from_sklearn(forest: Any) -> TreeEnsemble:
    """Convert a trained scikit-learn forest with two classes."""
    parts: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(TreeEnsemble)}
    offset = 0
    for estimator in forest.estimators_:
        tree = estimator.tree_
        leaf = tree.children_left < 0
        counts = tree.value[:, 0, :]
        parts["feature"].append(np.where(leaf, -1, tree.feature))
        parts["threshold"].append(tree.threshold)
        parts["left"].append(np.where(leaf, 0, tree.children_left + offset))
        parts["right"].append(np.where(leaf, 0, tree.children_right + offset))
        parts["value"].append(counts[:, 1] / counts.sum(1))
        parts["roots"].append(np.array([offset]))
        offset += tree.node_count
    types = {"threshold": np.float32, "value": np.float32}
    return TreeEnsemble(
        **{name: np.concatenate(part).astype(types.get(name, np.int32)) for name, part in parts.items()}
    )
