r"""SimCLR, ResNet-50, 100 epochs (Chen et al. 2020, section 2.2 and appendix B.7).

    python main.py --config=configs/imagenet/resnet50_simclr.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import base


def get_config(epochs: int = 100):
    c = base.get_config(epochs=epochs, batch_size=4096)
    base.resnet50(c, (2048, 2, 128))
    base.strong_colours(c)
    c.loss.name = "simclr"
    c.loss.simclr.temperature = 0.1
    c.train.learning_rate = 4.8
    c.train.weight_decay = 1e-6
    return c
