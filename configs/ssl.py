r"""Self-supervised: G = views of one sample. Nothing is asked, no label is known.

python main.py --config=configs/ssl.py
"""

from configs import default


def get_config():
    c = default.get_config()
    c.oracle.name = "none"
    c.data.holdout = 0.2
    return c
