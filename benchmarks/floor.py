"""What no method can do without, given what the features alone leave open."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize

from benchmarks.rivals import knn_graph


def leave_one_out_bits(x: np.ndarray, y: np.ndarray) -> float:
    """sum_i H(y_i | the features, all other labels), in bits, as estimated by code length.

    Label i is coded with p_i(c) proportional to (s_ic + a)^b, where s_ic is the share of class c in
    the weight of i's neighbours in the nearest-neighbour graph. a and b are those of the shortest
    code, -sum_i log2 p_i(y_i), so the posterior is as good as this family has one.
    """
    _, label = np.unique(y, return_inverse=True)
    share = np.asarray(knn_graph(x) @ np.eye(label.max() + 1)[label])
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-300)

    def bits(parameters: np.ndarray) -> float:
        a, b = np.exp(parameters)
        logits = b * np.log(share + a)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -log_p[np.arange(len(label)), label].sum() / np.log(2)

    bounds = np.log([(1e-4, 10.0), (0.1, 10.0)])
    return float(minimize(bits, np.log([0.05, 1.0]), bounds=bounds, method="Nelder-Mead").fun)


def capacity(flip: float) -> float:
    """Bits that an answer carries at most: 1 - h(flip), a binary symmetric channel's capacity."""
    noise = np.array([flip, 1 - flip])
    noise = noise[noise > 0]
    return float(1 + (noise * np.log2(noise)).sum())


def sentence(x: np.ndarray, y: np.ndarray, flips: Sequence[float] = ()) -> str:
    bits = leave_one_out_bits(x, y)
    noisy = "".join(f", {bits / capacity(flip):.0f} with {flip:.0%} wrong" for flip in flips)
    return f"information floor for every sample right: {bits:.0f} answers{noisy}"
