r"""PAL on CIFAR-10: as cifar_ssl, with 1,000 yes/no answers.

python main.py --config=configs/cifar_pal_active.py --config.data.data_dir=TFDS_FOLDER

Measured, seed 0, on two CPU cores: partition accuracy 0.3668 (12 groups), estimated 0.3190 and
at least 0.2245 by the audit; kNN accuracy 0.4594, linear probe 0.4991. The embedding
of so small a net is too weak for questions to pay: train a ResNet-18 on an accelerator.
"""

from configs import cifar_ssl


def get_config():
    c = cifar_ssl.get_config()
    c.oracle.name = "labels"
    c.train.rounds = 5
    c.asking.budget = 1_000
    c.asking.audit = 100
    # Questions proposed together cost a few answers more and a fraction of the time.
    c.asking.at_once = 50
    return c
