r"""Semi-supervised: G = views, and the same label where it is one of the 10 % that are known.

python main.py --config=configs/semi.py
"""

from configs import ssl


def get_config():
    c = ssl.get_config()
    c.graph.labelled = 0.1
    return c
