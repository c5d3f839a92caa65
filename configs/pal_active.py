r"""PAL on scikit-learn's digits: groups 1,797 images by asking yes/no questions while it trains.

python main.py --config=configs/pal_active.py
"""

from configs import default


def get_config():
    return default.get_config()
