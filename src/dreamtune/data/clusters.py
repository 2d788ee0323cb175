"""The clusters of the rows in the shards: a cluster's key is the example id of its first row in the same split."""

import numpy as np


class ClusterKeys:
    """Finds the key of each row's cluster while the rows are written, in source order.

    Args:
        clusters: [rows] int32, each source row's cluster as a number.
        splits: number of splits.
    """

    def __init__(self, clusters: np.ndarray, splits: int) -> None:
        self.clusters = clusters
        self.first = np.full((splits, int(clusters.max(initial=-1)) + 1), -1, np.int32)  # [splits, clusters]

    def of(self, split: int, ids: np.ndarray) -> np.ndarray:
        """Return the cluster keys of the next rows that are written to a split, [n] int64.

        >>> keys = ClusterKeys(np.array([0, 1, 1, 0, 1]), splits=2)
        >>> keys.of(0, np.array([0, 2])).tolist(), keys.of(1, np.array([3])).tolist()
        ([0, 2], [3])
        >>> keys.of(0, np.array([4])).tolist()
        [2]

        Args:
            split: number of the split.
            ids: [n] int64, the rows' example ids.
        """
        mine, first = self.clusters[ids], self.first[split]
        numbers, at = np.unique(mine, return_index=True)
        new = first[numbers] < 0
        first[numbers[new]] = ids[at[new]]
        return first[mine].astype(np.int64)

    def known(self, split: int) -> np.ndarray:
        """Return which source rows belong to a cluster with a row in the split, [rows] bool."""
        known: np.ndarray = (self.first[split] >= 0)[self.clusters]
        return known

    def counts(self) -> list[int]:
        """Return the number of clusters in each split."""
        return [int(count) for count in (self.first >= 0).sum(axis=1)]
