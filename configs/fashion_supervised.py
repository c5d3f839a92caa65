r"""Supervised on Fashion-MNIST: as fashion_ssl, with all labels known.

python main.py --config=configs/fashion_supervised.py --config.data.data_dir=TFDS_FOLDER

Measured, seed 0, 6 minutes on two shared CPU cores: kNN accuracy 0.8740, linear probe 0.8714.
"""

from configs import fashion_ssl


def get_config():
    c = fashion_ssl.get_config()
    c.graph.labelled = 1.0
    return c
