r"""Supervised on Fashion-MNIST: as fashion_ssl, with all labels known.

python main.py --config=configs/fashion_supervised.py --config.data.data_dir=TFDS_FOLDER
"""

from configs import fashion_ssl


def get_config():
    c = fashion_ssl.get_config()
    c.graph.labelled = 1.0
    return c
