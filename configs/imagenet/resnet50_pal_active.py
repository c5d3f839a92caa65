r"""PAL: SimCLR with 100,000 yes/no answers; ResNet-50, 100 epochs.

    python main.py --config=configs/imagenet/resnet50_pal_active.py --config.data.data_dir=DIR

Not run at full size here: CI builds it, checks its shapes and takes 3 steps on made-up records.
"""

from configs.imagenet import resnet50_simclr


def get_config():
    c = resnet50_simclr.get_config()
    c.oracle.name = "labels"
    c.asking.budget = 100_000
    c.asking.audit = 1_000
    # Questions proposed together cost a few answers more and a fraction of the time.
    c.asking.at_once = 100
    return c
