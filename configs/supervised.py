r"""Supervised: G = same label, all labels known.

python main.py --config=configs/supervised.py
"""

from configs import ssl


def get_config():
    c = ssl.get_config()
    c.graph.labelled = 1.0
    return c
