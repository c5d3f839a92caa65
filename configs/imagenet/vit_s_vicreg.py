r"""VICReg, ViT-S/16, 100 epochs; optimiser as MoCo v3 (Chen et al. 2021).

    python main.py --config=configs/imagenet/vit_s_vicreg.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import base


def get_config(epochs: int = 100):
    c = base.get_config(epochs=epochs, batch_size=2048)
    base.vit_s(c, (8192, 3, 8192))
    c.loss.name = "vicreg"
    c.train.learning_rate = 1.2e-3
    return c
