r"""Supervised on CIFAR-10: as cifar_ssl, with all labels known.

python main.py --config=configs/cifar_supervised.py --config.data.data_dir=TFDS_FOLDER
"""

from configs import cifar_ssl


def get_config():
    c = cifar_ssl.get_config()
    c.graph.labelled = 1.0
    return c
