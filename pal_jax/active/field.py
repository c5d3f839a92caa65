"""Gaussian process regression that grows by one placed sample at a time."""

from collections.abc import Callable, Sequence

import numpy as np

NOISE = 0.01  # variance of a label around the smooth function of the kernel
_FLOOR = 0.02  # of a variance that others are measured by
_FIRST = 64  # placed samples that fit before memory is doubled
_STRIPE = 128  # rows of L^-1 that are used twice while they are in the cache

# ([R] rows, [C] columns) -> [R, C] float32, 1 for a sample and itself
Kernel = Callable[[np.ndarray, "np.ndarray | slice"], np.ndarray]


class Field:
    """Regression of any labels of the nodes, all n samples from m nodes.

    Holds the rows U [m, n] of a Cholesky factorisation, A = K_nodes + noise = L L^T,
    U = L^-1 K_nodes,: , and L^-1. One more node costs O(m n); labels come in later, so that other
    labels of the same nodes cost O(m n) a column and nothing is factorised again.

    It is a function of the nodes and their order alone: however it got there, all numbers are the
    same to the bit.

    Args:
        kernel: the similarity of samples.
        n: number of samples.
        block: so many nodes in a row are placed at once, by products of matrices; those after the
            last whole block one by one.
        single: so many first nodes are placed one by one, the first block begins after them.
    """

    def __init__(self, kernel: Kernel, n: int, block: int = 1, single: int = 0):
        self._kernel, self._n, self._block, self._single = kernel, n, block, single
        self._nodes: list[int] = []
        self._rows = np.empty((0, n), np.float32)
        self._inverse = np.empty((0, 0))
        self._variance = np.ones(n, np.float32)
        self._precisions: np.ndarray | None = None

    @property
    def nodes(self) -> list[int]:
        """The placed samples, in order."""
        return self._nodes

    def move_to(self, nodes: Sequence[int]) -> None:
        """Makes `nodes`, all different, the placed samples; keeps what it shares from the start."""
        nodes = list(nodes)
        if nodes != self._nodes:
            self._precisions = None
        shared = 0
        for old, new in zip(self._nodes, nodes, strict=False):
            if old != new:
                break
            shared += 1
        if shared < len(self._nodes):
            self._keep(self._begun(shared))
        while (placed := len(self._nodes)) < len(nodes):
            begun = self._begun(placed)
            if self._block > 1 and self._single <= begun <= len(nodes) - self._block:
                self._keep(begun)
                self._add_block(nodes[begun:][: self._block])
            else:
                self._add(nodes[placed])

    def _begun(self, placed: int) -> int:
        """Where the block begins that the node after so many is in; without blocks, there."""
        return placed - max(placed - self._single, 0) % self._block

    def _keep(self, count: int) -> None:
        """Forgets all but the first nodes."""
        if count < len(self._nodes):
            del self._nodes[count:]
            self._reserve(count)
            self._variance = np.ones(self._n, np.float32)
            for row in self._rows[:count]:
                self._variance -= row * row

    def _add_block(self, nodes: list[int]) -> None:
        m, new = len(self._nodes), len(nodes)
        self._reserve(m + new)
        kernel = self._kernel(np.array(nodes), slice(None))
        inverse = self._inverse[:m, :m]
        left = kernel[:, self._nodes].astype(np.float64) @ inverse.T
        rest = kernel[:, nodes].astype(np.float64) + NOISE * np.eye(new) - left @ left.T
        own = np.linalg.inv(np.linalg.cholesky(rest))
        kernel -= left.astype(np.float32) @ self._rows[:m]
        self._rows[m : m + new] = own.astype(np.float32) @ kernel
        self._inverse[m : m + new, :m] = -own @ (left @ inverse)
        self._inverse[m : m + new, m : m + new] = own
        for row in self._rows[m : m + new]:
            self._variance -= row * row
        self._nodes.extend(nodes)

    def _add(self, node: int) -> None:
        m = len(self._nodes)
        self._reserve(m + 1)
        kernel = self._kernel(np.array([node]), slice(None))[0]
        inverse = self._inverse[:m, :m]
        left = inverse @ kernel[self._nodes].astype(np.float64)
        scale = 1.0 / np.sqrt(max(1.0 + NOISE - float(left @ left), NOISE))
        row = kernel - left.astype(np.float32) @ self._rows[:m]
        row *= np.float32(scale)
        self._rows[m] = row
        self._inverse[m, :m] = -scale * (left @ inverse)
        self._inverse[m, m] = scale
        self._variance = self._variance - row * row
        self._nodes.append(node)

    def _reserve(self, m: int) -> None:
        """Memory for m nodes, twice as much when it is full.

        Its size hangs on m alone, not on what was there before: so do the last digits of products.
        """
        size = 0 if m == 0 else _FIRST
        while size < m:
            size *= 2
        have = min(len(self._rows), size)
        if size != len(self._rows):
            rows, inverse = np.empty((size, self._n), np.float32), np.zeros((size, size))
            rows[:have], inverse[:have, :have] = self._rows[:have], self._inverse[:have, :have]
            self._rows, self._inverse = rows, inverse

    @property
    def variance(self) -> np.ndarray:
        """[n] float32 posterior variance of the function, in [0, 1]."""
        return np.clip(self._variance, 0.0, 1.0)

    def mean(self, labels: np.ndarray) -> np.ndarray:
        """[n, C] float32 posterior mean, for labels [m, C] of the nodes."""
        m = len(self._nodes)
        half = self._inverse[:m, :m] @ labels
        return self._rows[:m].T @ half.astype(np.float32)

    def left_out(self, labels: np.ndarray) -> np.ndarray:
        """[m, C] posterior mean at each node as if its own label were not known."""
        m = len(self._nodes)
        weights = np.zeros(labels.shape)
        for start in range(0, m, _STRIPE):  # A^-1 = L^-T L^-1, of which half is zeros
            end = min(start + _STRIPE, m)
            rows = self._inverse[start:end, :end]
            weights[:end] += rows.T @ (rows @ labels[:end])
        return labels - weights / self._precision()[:, None]

    def left_out_variance(self) -> np.ndarray:
        """[m] posterior variance at each node as if its own label were not known, in [0, 1]."""
        return np.clip(1.0 / self._precision() - NOISE, 0.0, 1.0)

    def _precision(self) -> np.ndarray:
        """[m] inverse of the variance of each node's label, given all others."""
        out = self._precisions
        if out is None:
            m = len(self._nodes)
            inverse = self._inverse[:m, :m]
            self._precisions = out = np.einsum("ij,ij->j", inverse, inverse)
        return out

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """[R, C] float32 posterior covariance of the function between samples."""
        m = len(self._nodes)
        explained = self._rows[:m, rows].T @ self._rows[:m, columns]
        return self._kernel(rows, columns) - explained

    def told(self, nodes: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """[N, C] float32 squared correlation of nodes and samples, if a node's label was unknown.

        That is the share of a sample's variance, without the label, that the label takes away;
        each node, given by its place among all, in turn.
        """
        m = len(self._nodes)
        influence = self._inverse[:m, nodes].T.astype(np.float32) @ self._rows[:m, columns]
        taken = np.square(influence) / self._precision()[nodes][:, None].astype(np.float32)
        return taken / (np.maximum(self.variance[columns], _FLOOR) + taken)

    def told_each_other(self, nodes: np.ndarray, others: np.ndarray) -> np.ndarray:
        """[N, O] squared correlation of nodes, given by place, as if neither's label was known.

        The squared partial correlation, given the labels of all other nodes; 1 for the same node.
        """
        m = len(self._nodes)
        inverse = self._inverse[:m, :m]
        precision = self._precision()
        product = np.square(inverse[:, nodes].T @ inverse[:, others])
        return product / (precision[nodes][:, None] * precision[others])
