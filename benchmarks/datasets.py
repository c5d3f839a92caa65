r"""Features and labels for benchmarks.questions; embeddings of a run, joined with the true labels.

    python main.py --config=configs/fashion_ssl.py --config.data.data_dir=TFDS_FOLDER
    python -m benchmarks.datasets runs/fashion_ssl fashion.npz

The second command writes x [n, H] float32, the encoder's embedding of every sample of the run, and
y [n], its label in the data set that the run was given: what --data takes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn import datasets
from sklearn.preprocessing import StandardScaler

from pal_jax import data
from pal_jax.errors import UserError

TABLES = {
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """x [n, d] float64 and y [n] int: digits, one of TABLES, or an npz file with x and y.

    Digits are their 64 raw pixels over 16; tables are standardised, since the units of their
    columns have nothing to do with each other; what a file holds is taken as it is.

    Raises:
        SystemExit: there is no such data, in one sentence.
    """
    if name == "digits":
        x, y = datasets.load_digits(return_X_y=True)
        return x / 16, y
    if name in TABLES:
        x, y = TABLES[name](return_X_y=True)
        return StandardScaler().fit_transform(x), y
    try:
        with np.load(name, allow_pickle=False) as file:
            x, y = file["x"], file["y"]
    except (OSError, ValueError, KeyError, TypeError):
        known = ", ".join(["digits", *TABLES])
        raise SystemExit(
            f"error: --data {name} is none of {known}, and no .npz file with x and y"
        ) from None
    return x.reshape(len(x), -1).astype(np.float64), y


def labelled_embedding(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """h [n, H] of a finished run, and the labels [n] of its samples, matched by sample id."""
    with np.load(run / "embeddings.npz", allow_pickle=False) as file:
        ids, h = file["ids"], file["h"]
    config = json.loads((run / "config.json").read_text())["config"]
    keys = ("data_dir", "split", "limit", "image_size")
    source = data.load(config["data.name"], **{key: config[f"data.{key}"] for key in keys})
    if source.labels is None:
        raise UserError(f"{config['data.name']} has no labels; take the run of data that has some")
    label = dict(zip(source.ids.tolist(), source.labels.tolist(), strict=True))
    return h, np.array([label[i] for i in ids.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description="Joins the embedding of a run with true labels.")
    parser.add_argument("run", type=Path, help="workdir of a finished run")
    parser.add_argument("out", type=Path, help="the .npz to write")
    args = parser.parse_args()
    try:
        x, y = labelled_embedding(args.run)
    except OSError as error:
        parser.error(f"{args.run} is no finished run: {error.filename}: {error.strerror}")
    except UserError as error:
        parser.error(str(error))
    np.savez(args.out, x=x, y=y)
    print(f"{args.out}: x {x.shape}, y {y.shape} with {len(np.unique(y))} classes")


if __name__ == "__main__":
    main()
