r"""Semi-supervised: SimCLR with 10 % of the labels known; ResNet-50, 100 epochs.

    python main.py --config=configs/imagenet/resnet50_semi_10.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import resnet50_simclr


def get_config():
    c = resnet50_simclr.get_config()
    c.graph.labelled = 0.1
    return c
