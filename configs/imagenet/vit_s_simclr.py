r"""SimCLR, ViT-S/16, 100 epochs; optimiser and temperature as MoCo v3 (Chen et al. 2021).

    python main.py --config=configs/imagenet/vit_s_simclr.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import base


def get_config(epochs: int = 100):
    c = base.get_config(epochs=epochs, batch_size=4096)
    base.vit_s(c, (4096, 3, 256))
    base.strong_colours(c)
    c.loss.name = "simclr"
    c.loss.simclr.temperature = 0.2
    c.train.learning_rate = 2.4e-3
    return c
