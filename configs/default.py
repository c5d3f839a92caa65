"""Every option of pal_jax, once, with its unit and meaning. Experiments are a few lines on top."""

from typing import Any

from ml_collections import ConfigDict, config_dict


def get_config() -> Any:
    """The defaults: PAL on scikit-learn's digits."""
    c: Any = ConfigDict()
    c.seed = 0  # of everything that is drawn: weights, views, batches, questions, noise

    c.data = ConfigDict()
    c.data.name = "digits"  # digits | tfds:NAME | folder:PATH | arrays:FILE.npz | synthetic:N
    c.data.data_dir = ""  # where TFDS data sets lie; nothing is ever downloaded
    c.data.split = "train"  # TFDS split that is learned from
    c.data.test_split = ""  # TFDS split held out for kNN and probe; "" = data.holdout decides
    c.data.holdout = 0.0  # fraction of the samples held out for kNN and probe, in [0, 1)
    c.data.labels = True  # False: subfolders of pictures, or y, are no labels
    c.data.limit = (
        0  # the first so many samples only, of a sorted folder the first classes; 0 = all
    )
    c.data.image_size = 64  # pixels; pictures of several sizes are cut to squares of this side
    c.data.stream = False  # tfds: leave the images on disk and decode each when it is needed
    c.data.workers = 0  # threads that decode streamed images; 0 = one a core
    c.data.cache = ""  # folder that keeps the labels of streamed sets; "" = read them each time

    c.views = ConfigDict()
    c.views.count = 2  # views a sample
    c.views.crop = 0.0  # share of the area that a random resized crop may cut away, below 1
    c.views.rotate = 15.0  # degrees, at most, either way
    c.views.zoom = 0.15  # change of size, log-uniform in [1 / (1 + zoom), 1 + zoom]
    c.views.shift = 1.0  # pixels, at most, either way
    c.views.flip = 0.0  # probability of a mirror image
    c.views.brightness = 0.0  # factor in [1 - brightness, 1 + brightness]
    c.views.contrast = 0.0  # factor, likewise, on the difference from the mean grey
    c.views.saturation = 0.0  # factor, likewise, on the difference from grey; colour images
    c.views.hue = 0.0  # turns about the grey axis, at most, either way; colour images
    c.views.grayscale = 0.0  # probability of losing all colour; colour images
    c.views.noise = 0.1  # Gaussian, standard deviations of the channel or feature
    c.views.dropout = 0.1  # features only: probability that one is set to its mean

    c.graph = ConfigDict()
    c.graph.labelled = 0.0  # labels known from the start: fraction up to 1, count above; 0 = none
    c.graph.related = 0.5  # share of a batch drawn from samples known to be alike to another

    c.model = ConfigDict()
    c.model.encoder = "convnet"  # mlp | convnet | resnet18 | resnet50 | vit_s
    c.model.width = 0  # of the first stage (convnet, ResNets) or of all layers; 0 = its default
    c.model.stem = "cifar"  # cifar | imagenet; ResNets only
    c.model.patch = 4  # pixels, side of a patch; ViT only
    c.model.projector = (256, 2, 128)  # hidden width, layers (0: z is h), output width
    c.model.dtype = "float32"  # float32 | bfloat16, of the computation; weights are float32

    c.loss = ConfigDict()
    c.loss.name = "vicreg"  # a name of pal_jax.experiment.LOSSES; its weights stand below
    c.loss.vicreg = ConfigDict({"invariance": 25.0, "variance": 25.0, "covariance": 1.0})
    c.loss.simclr = ConfigDict({"temperature": 0.2})
    c.loss.barlow_twins = ConfigDict({"offdiagonal": 5e-3})

    c.oracle = ConfigDict()
    c.oracle.name = "labels"  # labels | noisy | file | program | none (nothing is asked)
    c.oracle.flip = 0.1  # noisy: probability that an answer is wrong
    c.oracle.file = ""  # file: answers in the format of answers.jsonl
    c.oracle.command = ""  # program: reads questions, writes answers, a JSON line each
    c.oracle.timeout = 60.0  # program: seconds that one answer may take
    c.oracle.prior = (
        ""  # answers believed from the start at no cost, in the format of answers.jsonl
    )
    c.oracle.prior_error = -1.0  # how often those are wrong; -1 = estimated, oracle by oracle

    c.asking = ConfigDict()
    c.asking.strategy = "most_informative"  # a name of pal_jax.experiment.STRATEGIES
    # judgements that may be bought: yes, no and "not sure", audit included; may be raised later
    c.asking.budget = 400
    c.asking.audit = 40  # judgements of the budget that go into the final audit
    c.asking.stop = 0.0  # ends asking once this accuracy is sure (lower 95 % bound); 0 = never
    c.asking.per_round = 0  # judgements bought a round; 0 = the budget spread evenly
    c.asking.at_once = 1  # questions proposed before any of their answers is seen
    c.asking.refit = 0  # judgements between closed-form linear refits of the embedding; 0 = none
    c.asking.candidates = 1  # of a question: 1 = pairs, M = "which of these M are like this one?"
    # how often answers are wrong; -1 = estimated from them; left alone, 0 of labels, else estimated
    c.asking.error_rate = config_dict.placeholder(float)

    c.train = ConfigDict()
    c.train.rounds = 10  # embed, ask, train; the first round asks nothing
    c.train.steps = 600  # optimiser steps in all, at least one a round
    c.train.first = 0.0  # share of them in the first round, before any answer; 0 = as in any other
    c.train.batch_size = 256  # samples a step, over all devices
    c.train.accumulate = 1  # parts in which the encoder takes a batch, to save memory; loss: whole
    c.train.fsdp = 1  # devices that share one copy of weights and optimiser state; 1 = all have it
    c.train.optimizer = "adamw"  # adamw | sgd | lars
    c.train.learning_rate = 2e-3  # at its peak
    c.train.bias_rate = 1.0  # that of biases and norms, as a multiple
    c.train.warmup_steps = 60  # of linear rise from 0; a cosine takes it back to 0
    c.train.weight_decay = 1e-4  # of weight matrices and kernels; never of biases and norms
    c.train.log_every = 10  # steps

    c.evaluate = ConfigDict()
    c.evaluate.neighbours = 10  # k of the kNN accuracy
    # samples of the pool that kNN (whose time is their square), probes and rank look at, taken
    # evenly where there are more; 0 = all
    c.evaluate.limit = 20_000
    c.evaluate.batch_size = 512  # samples embedded at a time, over all devices

    c.hosts = ConfigDict()  # several processes: TPU, SLURM and others say this themselves
    c.hosts.coordinator = ""  # address:port of process 0; "" = what the environment says
    c.hosts.processes = 0  # how many there are; 0 = what the environment says
    c.hosts.process = -1  # which one this is, from 0; -1 = what the environment says
    c.hosts.timeout = 300.0  # seconds to wait for the others at the start

    c.checkpoint = ConfigDict()
    c.checkpoint.every = 200  # steps; a round's end and a stop signal save too
    c.checkpoint.keep = 2  # newest checkpoints that stay on disk
    c.checkpoint.journal = ""  # local folder of the journal; "" = the workdir, runs/... for gs://
    c.checkpoint.free = 1.0  # GiB that must be free where the workdir lies, or nothing starts
    return c.lock()  # an experiment that mistypes a key is told
