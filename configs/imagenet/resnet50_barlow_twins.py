r"""Barlow Twins, ResNet-50, 100 epochs (Zbontar et al. 2021, section 2.2).

    python main.py --config=configs/imagenet/resnet50_barlow_twins.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import base


def get_config(epochs: int = 100):
    c = base.get_config(epochs=epochs, batch_size=2048)
    base.resnet50(c, (8192, 3, 8192))
    c.loss.name = "barlow_twins"
    c.loss.barlow_twins.offdiagonal = 5.1e-3
    c.train.learning_rate = 1.6  # 0.2 for a batch of 256
    c.train.bias_rate = 0.024  # 0.0048 for a batch of 256
    c.train.weight_decay = 1.5e-6
    return c
