r"""The theory of the squared losses, run: what their optima are, and how they move with the graph.

    python -m docs.theory --out runs/theory        # a minute on one core; writes theory.html

On two moons, concentric circles and digits:

1. Free rows: a quasi-Newton descent ends in the closed form, for all three losses.
2. One problem: on a degree-normalised graph SCL and VICReg^2 differ by a constant.
3. A linear model: stochastic gradient descent on minibatches ends in `fit_linear`.
4. Supervised learning is a special case: with G of all labels, a linear probe on the optimum of a
   linear model is least-squares classification.
5. From self-supervised to supervised: embeddings in closed form, by a Gaussian kernel, while more
   and more labels enter G.

Every statement is checked; the script stops at one that does not hold.
"""

import argparse
import base64
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import scipy.optimize
import sklearn.datasets

from pal_jax import closed_form, graph, spectral

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LOSSES = (
    spectral.spectral_contrastive,
    spectral.vicreg_squared,
    spectral.barlow_twins_squared,
)
FRACTIONS = (0.0, 0.1, 1.0)  # of the labels that enter G
VIEWS = 4
STEPS = 20_000  # of stochastic gradient descent


def check(statement: str, left: float, right: float, tolerance: float) -> str:
    """A line of the report; ValueError if the two sides differ by more than `tolerance`."""
    if not abs(left - right) <= tolerance * max(1.0, abs(right)):
        raise ValueError(f"{statement}: {left} is not {right}")
    return f"{statement}: {left:.6f} and {right:.6f}"


def descend(loss, g, start: np.ndarray) -> float:
    step = jax.jit(jax.value_and_grad(lambda z: loss(z.reshape(start.shape), g)))

    def at(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = step(jnp.asarray(z))
        return float(value), np.asarray(gradient)

    return scipy.optimize.minimize(at, start.ravel(), jac=True, method="L-BFGS-B").fun


def optima(x: np.ndarray, y: np.ndarray, width: float, rng: np.random.Generator) -> list[str]:
    """Statements 1 and 2: G is how near the samples are, and then which have one label."""
    g = graph.normalize(jnp.asarray(closed_form.gaussian_kernel(x, x, width)))
    lines = []
    for loss in LOSSES:
        z = jnp.asarray(closed_form.spectral_embedding(g, 4, loss=loss))
        reached = descend(loss, g, rng.normal(size=(len(x), 4)))
        lines.append(
            check(f"descent and closed form, {loss.__name__}", reached, float(loss(z, g)), 1e-4)
        )
    z = jnp.asarray(rng.normal(size=(len(x), 4)))
    # Normalised cliques have degree 1 exactly, so that I - G is their Laplacian.
    groups = graph.normalize(graph.from_labels(y))
    constant = float(groups.squared_norm()) - 4
    contrastive = float(spectral.spectral_contrastive(z, groups))
    vicreg = float(spectral.vicreg_squared(jnp.sqrt(float(len(x))) * z, groups))
    lines.append(check("SCL and VICReg^2 plus a constant", contrastive, vicreg + constant, 1e-9))
    return lines


def stochastic_descent(phi: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """[M, K] weights after SGD on VICReg^2; phi [V, n, M] are features of V views of n samples.

    A step sees 32 samples, drawn with replacement, and the unbiased loss, whose mean is the loss of
    all samples. The plug-in loss of the same batches would end elsewhere.
    """
    views, samples, width = phi.shape
    g = graph.normalize(graph.from_views(32, views))
    rate = optax.linear_schedule(0.02, 0.0, STEPS)

    def loss(w, x):
        return spectral.vicreg_squared(x @ w, g, views=views)

    def step(w, batch):
        i, rows = batch
        x = jnp.asarray(phi)[:, rows].reshape(-1, width)
        return w - rate(i) * jax.grad(loss)(w, x), None

    rows = jnp.asarray(rng.integers(0, samples, (STEPS, 32)))
    start = jnp.asarray(0.1 * rng.normal(size=(width, k)))
    return np.asarray(jax.jit(lambda w: jax.lax.scan(step, w, (jnp.arange(STEPS), rows))[0])(start))


def linear(x: np.ndarray, y: np.ndarray, width: float, rng: np.random.Generator) -> list[str]:
    """Statements 3 and 4, on twelve whitened directions of a Gaussian kernel and a constant."""
    views = np.stack([x, x + 0.1 * rng.normal(size=x.shape)])
    kernel = closed_form.gaussian_kernel(views.reshape(-1, x.shape[1]), x[::8], width)
    u = np.linalg.svd(kernel - kernel.mean(axis=0), full_matrices=False)[0]
    phi = np.c_[np.sqrt(len(u)) * u[:, :12], np.ones(len(u))]

    g = graph.normalize(graph.from_views(len(x), 2))
    best, trained = (
        float(spectral.vicreg_squared(jnp.asarray(phi @ w), g))
        for w in (
            closed_form.fit_linear(phi, g, 3, ridge=0),
            stochastic_descent(phi.reshape(2, len(x), -1), 3, rng),
        )
    )
    lines = [check("SGD and fit_linear", trained, best, 1e-2)]

    target, both = np.eye(y.max() + 1)[np.tile(y, 2)], np.tile(y, 2)
    g = graph.normalize(graph.from_labels(both))
    h = phi @ closed_form.fit_linear(phi, g, target.shape[1], ridge=0)
    probe = h @ np.linalg.lstsq(h, target, rcond=1e-6)[0]
    least_squares = phi @ np.linalg.lstsq(phi, target)[0]
    largest = float(np.abs(probe - least_squares).max())
    return [*lines, check("difference of probe and least squares", largest, 0.0, 1e-6)]


def data_sets(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Name -> samples, labels and the kernel's width."""
    moons, moon = sklearn.datasets.make_moons(200, noise=0.06, random_state=0)
    circles, circle = sklearn.datasets.make_circles(200, noise=0.04, factor=0.5, random_state=0)
    bunch: Any = sklearn.datasets.load_digits(n_class=4)
    digits, digit = bunch.data, bunch.target
    some = rng.permutation(len(digits))[:200]
    return {
        "two moons": (np.asarray(moons), np.asarray(moon), 0.3),
        "circles": (np.asarray(circles), np.asarray(circle), 0.3),
        "digits 0 to 3": (digits[some] / 16, digit[some], 1.5),
    }


def embed(
    x: np.ndarray, y: np.ndarray, width: float, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """[n, 3] closed-form embedding of the samples, and how often the nearest has the same label."""
    views = np.concatenate([x] + [x + 0.1 * rng.normal(size=x.shape) for _ in range(VIEWS - 1)])
    known = rng.permutation(len(x)) < fraction * len(x)
    g = graph.normalize(graph.with_views(graph.from_labels(y, known), VIEWS))
    kernel = closed_form.gaussian_kernel(views, x, width)
    a = closed_form.fit_kernel(kernel, kernel[: len(x)], g, 3, ridge=1e-3)
    z = kernel[: len(x)] @ a
    nearest = np.argsort(np.square(z[:, None] - z[None]).sum(axis=2), axis=1)[:, 1]
    return z, float((y[nearest] == y).mean())


def figure(sets: dict[str, tuple[np.ndarray, np.ndarray, float]], rng: np.random.Generator) -> str:
    """Statement 5, as an <img>."""
    drawing, axes = plt.subplots(len(sets), 1 + len(FRACTIONS), figsize=(12, 9))
    for row, (name, (x, y, width)) in zip(axes, sets.items(), strict=True):
        row[0].scatter(*x[:, :2].T if x.shape[1] == 2 else x[:, [20, 36]].T, c=y, s=8, cmap="tab10")
        row[0].set_title(name)
        for axis, fraction in zip(row[1:], FRACTIONS, strict=True):
            z, accuracy = embed(x, y, width, fraction, rng)
            axis.scatter(z[:, 0], z[:, 1], c=y, s=8, cmap="tab10")
            axis.set_title(f"{fraction:.0%} of the labels; 1-NN {accuracy:.0%}")
    drawing.tight_layout()
    png = io.BytesIO()
    drawing.savefig(png, format="png", dpi=80)
    encoded = base64.b64encode(png.getvalue()).decode()
    return f'<img alt="embeddings" src="data:image/png;base64,{encoded}">'


def main() -> None:
    parser = argparse.ArgumentParser(description="The theory of the squared losses, run.")
    parser.add_argument("--out", type=Path, default=Path("runs/theory"))
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        sets, lines = data_sets(rng), []
        for name, (x, y, width) in sets.items():
            some = rng.permutation(len(x))[:60]
            statements = [*optima(x[some], y[some], width, rng), *linear(x, y, width, rng)]
            print(name, *statements, sep="\n  ")
            lines += [f"<h2>{name}</h2>", *(f"<p>{line}</p>" for line in statements)]
        drawing = figure(sets, rng)
    options.out.mkdir(parents=True, exist_ok=True)
    text = f"<pre>{__doc__}</pre>"
    page = options.out / "theory.html"
    partial = page.with_suffix(".part")
    partial.write_text("\n".join(["<!doctype html><meta charset=utf-8>", text, *lines, drawing]))
    partial.replace(page)
    print(page)


if __name__ == "__main__":
    main()
