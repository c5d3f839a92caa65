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

TABLES = {
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "iris": datasets.load_iris,
}


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """x [n, d] float64 and y [n] int: digits, one of TABLES, or an npz file with x and y.

    Digits are their 64 raw pixels over 16; tables are standardised, since the units of their
    columns have nothing to do with each other; what a file holds is taken as it is.
    """
    if name == "digits":
        x, y = datasets.load_digits(return_X_y=True)
        return x / 16, y
    if name in TABLES:
        x, y = TABLES[name](return_X_y=True)
        return StandardScaler().fit_transform(x), y
    with np.load(name, allow_pickle=False) as file:
        x, y = file["x"], file["y"]
    return x.reshape(len(x), -1).astype(np.float64), y


def labelled_embedding(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """h [n, H] of a finished run, and the labels [n] of its samples, matched by sample id."""
    with np.load(run / "embeddings.npz", allow_pickle=False) as file:
        ids, h = file["ids"], file["h"]
    config = json.loads((run / "config.json").read_text())["config"]
    keys = ("data_dir", "split", "limit", "image_size")
    source = data.load(config["data.name"], **{key: config[f"data.{key}"] for key in keys})
    assert source.labels is not None, f"{config['data.name']} has no labels"
    label = dict(zip(source.ids.tolist(), source.labels.tolist(), strict=True))
    return h, np.array([label[i] for i in ids.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description="Joins the embedding of a run with true labels.")
    parser.add_argument("run", type=Path, help="workdir of a finished run")
    parser.add_argument("out", type=Path, help="the .npz to write")
    args = parser.parse_args()
    x, y = labelled_embedding(args.run)
    np.savez(args.out, x=x, y=y)
    print(f"{args.out}: x {x.shape}, y {y.shape} with {len(np.unique(y))} classes")


if __name__ == "__main__":
    main()
