r"""VICReg, ResNet-50, 100 epochs (Bardes et al. 2022, appendix D).

    python main.py --config=configs/imagenet/resnet50_vicreg.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import base


def get_config(epochs: int = 100):
    c = base.get_config(epochs=epochs, batch_size=2048)
    base.resnet50(c, (8192, 3, 8192))
    c.loss.name = "vicreg"
    c.train.learning_rate = 2.4
    c.train.weight_decay = 1e-6
    return c
