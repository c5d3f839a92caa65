"""The losses once more: slow, obvious, float64 NumPy, pair by pair. Imports nothing of ours."""

import itertools

import numpy as np


def gradient(f, z, step=1e-6):
    """[N, K] central differences of f at z."""
    out = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[index] += step
        down[index] -= step
        out[index] = (f(up) - f(down)) / (2 * step)
    return out


def precise_gradient(f, z, step=4e-3):
    """The same to 1e-10: central differences of the eighth order, for f smooth about z."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    out = np.zeros_like(z)
    for index in np.ndindex(z.shape):
        for times, weight in weights.items():
            up, down = z.copy(), z.copy()
            up[index] += times * step
            down[index] -= times * step
            out[index] += weight * (f(up) - f(down)) / step
    return out


# --- graphs ---------------------------------------------------------------------------------------


def graph_of_groups(ids):
    n = len(ids)
    return np.array([[float(ids[i] == ids[j]) for j in range(n)] for i in range(n)])


def graph_of_views(samples, views, directed=False):
    n = samples * views
    g = np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        same = i % samples == j % samples
        g[i, j] = same and (not directed or i // samples < j // samples)
    return g


def laplacian(g):
    return np.diag(g.sum(axis=1)) - g


def normalized(g):
    out = np.zeros_like(g)
    for i, j in zip(*np.nonzero(g), strict=True):
        out[i, j] = g[i, j] / np.sqrt(g[i].sum() * g[:, j].sum())
    return out


def without_loops(g):
    return g - np.diag(np.diag(g))


def energy(z, g):
    pairs = itertools.product(range(len(z)), repeat=2)
    return sum(g[i, j] * ((z[i] - z[j]) ** 2).sum() for i, j in pairs)


# --- on a graph -----------------------------------------------------------------------------------


def vicreg(z, g, views=1, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4):
    g = without_loops(g)
    k = z.shape[1]
    pull = energy(z, g) / (k * g.sum()) if g.sum() else 0.0
    hinge = spread = 0.0
    for block in np.split(z, views):
        c = np.cov(block, rowvar=False, ddof=1).reshape(k, k)
        hinge += np.maximum(0, 1 - np.sqrt(np.diag(c) + eps)).mean() / views
        spread += 2 * (without_loops(c) ** 2).sum() / (views * k)
    return invariance * pull + variance * hinge + covariance * spread


def similarity(z, temperature):
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    unit = z / np.where(norms > 0, norms, 1)
    return unit @ unit.T / temperature


def simclr(z, g, temperature=0.5, positives="each", apart=None):
    s, g = similarity(z, temperature), without_loops(g)
    n = len(z)
    a = np.ones((n, n)) if apart is None else apart
    total = weight = 0.0
    for i in range(n):
        others = [k for k in range(n) if k != i]
        alike = [j for j in others if g[i, j] > 0]
        if not alike:
            continue
        negatives = sum(a[i, k] * np.exp(s[i, k]) for k in others if k not in alike)
        everything = negatives + sum(np.exp(s[i, j]) for j in alike)
        if positives == "each":
            shares = g[i, alike] / g[i].sum()
            total += (shares * (np.log(everything) - s[i, alike])).sum()
            weight += 1
        elif positives == "any":
            total += np.log(everything) - np.log((g[i, alike] * np.exp(s[i, alike])).sum())
            weight += 1
        else:
            for j in alike:
                total -= g[i, j] * np.log(np.exp(s[i, j]) / (np.exp(s[i, j]) + negatives))
                weight += g[i, j]
    return total / weight if weight else 0.0


def barlow_twins(z, g, views=1, offdiagonal=5e-3, eps=1e-5):
    g = without_loops(g)
    if not g.sum():
        return 0.0
    zs = np.concatenate(
        [(b - b.mean(axis=0)) / np.sqrt(b.var(axis=0) + eps) for b in np.split(z, views)]
    )
    c = zs.T @ g @ zs / g.sum()
    return ((1 - np.diag(c)) ** 2).sum() + offdiagonal * (without_loops(c) ** 2).sum()


def spectral_contrastive(z, g, apart=None):
    if apart is None:
        return ((z @ z.T - g) ** 2).sum()
    pairs = itertools.product(range(len(z)), repeat=2)
    return sum(
        (1.0 if g[i, j] or i == j else apart[i, j]) * (z[i] @ z[j] - g[i, j]) ** 2 for i, j in pairs
    )


def spectral_between_views(z, g, views, mu=1.0, apart=None):
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    z = np.where(norms > np.sqrt(mu), z / np.where(norms > 0, norms, 1) * np.sqrt(mu), z)
    g, n = without_loops(g), len(z)
    samples = n // views
    s = z @ z.T
    total = weight = 0.0
    for i, j in itertools.product(range(n), repeat=2):
        if i % samples != j % samples and i // samples != j // samples:
            w = 1.0 if apart is None else apart[i, j]
            total += w * s[i, j] ** 2
            weight += w
    pull = (g * s).sum() / g.sum() if g.sum() else 0.0
    return (-2 * pull + total / (weight or 1)) / mu


def vicreg_squared(z, g, invariance=1.0):
    n, k = z.shape
    smooth = np.trace(z.T @ laplacian((g + g.T) / 2) @ z)
    return ((z.T @ z / n - np.eye(k)) ** 2).sum() + 2 * invariance / n * smooth


def barlow_twins_squared(z, g):
    return ((z.T @ g @ z / len(z) - np.eye(z.shape[1])) ** 2).sum()


# --- as published, for two views a, b of n samples ------------------------------------------------


def published_vicreg(a, b):
    """facebookresearch/vicreg, main_vicreg.py."""
    n, k = a.shape
    a0, b0 = a - a.mean(axis=0), b - b.mean(axis=0)
    std_a = np.sqrt(a0.var(axis=0, ddof=1) + 1e-4)
    std_b = np.sqrt(b0.var(axis=0, ddof=1) + 1e-4)
    std = np.maximum(0, 1 - std_a).mean() / 2 + np.maximum(0, 1 - std_b).mean() / 2
    cov_a, cov_b = a0.T @ a0 / (n - 1), b0.T @ b0 / (n - 1)
    cov = (without_loops(cov_a) ** 2).sum() / k + (without_loops(cov_b) ** 2).sum() / k
    return 25 * ((a - b) ** 2).mean() + 25 * std + cov


def published_nt_xent(a, b, temperature):
    """Chen et al. 2020, equation 1, averaged over the 2n rows."""
    n = len(a)
    s = similarity(np.concatenate([a, b]), temperature)
    np.fill_diagonal(s, -np.inf)
    positive = np.concatenate([np.arange(n) + n, np.arange(n)])
    return np.mean([np.log(np.exp(s[i]).sum()) - s[i, positive[i]] for i in range(2 * n)])


def published_solo_learn_simclr(z, labels, temperature):
    """solo-learn, losses/simclr.py: one logarithm of the summed positives."""
    e, rows = np.exp(similarity(z, temperature)), []
    for i in range(len(z)):
        positive = sum(e[i, j] for j in range(len(z)) if j != i and labels[j] == labels[i])
        negative = sum(e[i, j] for j in range(len(z)) if labels[j] != labels[i])
        if positive:
            rows.append(-np.log(positive / (positive + negative)))
    return np.mean(rows)


def published_optax_ntxent(z, labels, temperature):
    """optax.losses.ntxent: each positive against the negatives only, mean over pairs."""
    e, pairs = np.exp(similarity(z, temperature)), []
    for i, j in itertools.permutations(range(len(z)), 2):
        if labels[i] == labels[j]:
            negative = sum(e[i, k] for k in range(len(z)) if labels[k] != labels[i])
            pairs.append(-np.log(e[i, j] / (e[i, j] + negative)))
    return np.mean(pairs)


def published_barlow_twins(a, b, weight=5e-3):
    """facebookresearch/barlowtwins, main.py (BatchNorm1d without affine in training mode)."""
    an = (a - a.mean(axis=0)) / np.sqrt(a.var(axis=0) + 1e-5)
    bn = (b - b.mean(axis=0)) / np.sqrt(b.var(axis=0) + 1e-5)
    c = an.T @ bn / len(a)
    return ((np.diag(c) - 1) ** 2).sum() + weight * (without_loops(c) ** 2).sum()


def published_supcon(z, labels, temperature):
    """Khosla et al. 2020, the "out" form, mean over the anchors with a positive."""
    s, rows = similarity(z, temperature), []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            total = sum(np.exp(s[i, a]) for a in others)
            rows.append(-np.mean([np.log(np.exp(s[i, p]) / total) for p in positives]))
    return np.mean(rows)


def published_spectral(a, b, mu=1.0):
    """jhaochenz/spectral_contrastive_learning, models/spectral.py."""

    def cut(x):
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return np.where(norm < np.sqrt(mu), x, x / norm * np.sqrt(mu))

    a, b = cut(a), cut(b)
    n = len(a)
    square = (a @ b.T) ** 2
    push = (square.sum() - np.trace(square)) / (n * (n - 1))
    return (-2 * (a * b).sum(axis=1).mean() + push) / mu
