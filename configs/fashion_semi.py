r"""Semi-supervised on Fashion-MNIST: as fashion_ssl, with 10 % of the labels known.

python main.py --config=configs/fashion_semi.py --config.data.data_dir=TFDS_FOLDER
"""

from configs import fashion_ssl


def get_config():
    c = fashion_ssl.get_config()
    c.graph.labelled = 0.1
    return c
