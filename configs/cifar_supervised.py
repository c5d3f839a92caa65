r"""Supervised on CIFAR-10: as cifar_ssl, with all labels known.

python main.py --config=configs/cifar_supervised.py --config.data.data_dir=TFDS_FOLDER

Measured, seed 0, 63 seconds on two CPU cores: kNN accuracy 0.5527, linear probe 0.5497.
"""

from configs import cifar_ssl


def get_config():
    c = cifar_ssl.get_config()
    c.graph.labelled = 1.0
    return c
