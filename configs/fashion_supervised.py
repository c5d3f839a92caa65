r"""Supervised on Fashion-MNIST: as fashion_ssl, with all labels known.

python main.py --config=configs/fashion_supervised.py --config.data.data_dir=TFDS_FOLDER

Measured, seed 0, 60 seconds on two CPU cores: kNN accuracy 0.8770, linear probe 0.8691.
"""

from configs import fashion_ssl


def get_config():
    c = fashion_ssl.get_config()
    c.graph.labelled = 1.0
    return c
