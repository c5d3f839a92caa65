"""What a user gets wrong ends in one sentence and exit status 2, and changes nothing on disk."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pal_jax.errors import sentence

ROOT = Path(__file__).parent.parent
PAL = "--config=configs/pal_active.py"
SSL = "--config=configs/ssl.py"


def _arrays(path, **arrays):
    np.savez(path, **arrays)


def _files(tmp):
    """Everything that the cases below point at with {tmp}."""
    x = np.zeros((600, 3), np.float32)
    x[:, 0] = np.arange(600)
    (tmp / "empty").mkdir()
    (tmp / "broken").mkdir()
    (tmp / "broken" / "a.png").write_bytes(b"not a picture")
    (tmp / "few").mkdir()
    for name in "abc":
        Image.new("RGB", (9, 9), name == "a").save(tmp / "few" / f"{name}.png")
    (tmp / "file.txt").write_text("text")
    (tmp / "text.npz").write_text("text")
    (tmp / "labels.csv").write_text("file,label\na.png,cat\n")
    (tmp / "nothing.jsonl").write_text("\n")
    (tmp / "answer.py").write_text("print()\n")
    _arrays(tmp / "nox.npz", images=x)
    _arrays(tmp / "unlabelled.npz", x=x)
    _arrays(tmp / "short.npz", x=x, y=np.zeros(7, np.int64))
    _arrays(tmp / "nan.npz", x=np.where(x == 5, np.nan, x))
    _arrays(tmp / "none.npz", x=x[:0])
    _arrays(tmp / "one.npz", x=x[:1])
    _arrays(tmp / "pickled.npz", x=np.array([{"a": 1}] * 600, dtype=object))
    (tmp / "answers.jsonl").write_text('{"anchor": 0}\n')
    (tmp / "foreign").mkdir()
    (tmp / "foreign" / "thesis.tex").write_text("years of work")
    (tmp / "other").mkdir()
    identity = {"config": {"seed": 7}, "data": {"samples": 3, "fingerprint": "f"}}
    (tmp / "other" / "config.json").write_text(json.dumps(identity))
    (tmp / "other" / "journal.sqlite").write_bytes(b"")
    (tmp / "other" / "journal.json").write_text(json.dumps(identity))
    (tmp / "orphan").mkdir()
    (tmp / "orphan" / "journal.sqlite").write_bytes(b"")
    (tmp / "named.jsonl").write_text(
        '{"anchor": 0, "candidates": [1], "relations": ["alike"], "oracle": "me", '
        '"names": ["a.png", "b.png"]}\n'
    )
    (tmp / "far.jsonl").write_text(
        '{"anchor": 0, "candidates": [1797], "relations": ["alike"], "oracle": "me"}\n'
    )
    (tmp / "torn").mkdir()
    (tmp / "torn" / "config.json").write_text('{"config": {"se')
    (tmp / "noget.py").write_text("x = 1\n")
    (tmp / "typo.py").write_text(
        "from configs import default\n"
        "def get_config():\n    c = default.get_config()\n    c.asking.bugdet = 7\n    return c\n"
    )
    (tmp / "nothing.py").write_text(
        "from configs import default\n"
        "def get_config():\n    c = default.get_config()\n    c.train.steps = None\n    return c\n"
    )
    (tmp / "own.py").write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict()\n"
    )
    (tmp / "syntax.py").write_text("def get_config(:\n")


# name: (arguments, what the sentence must name).
CASES = {
    "no config": ([], ["--config=configs/pal_active.py"]),
    "config is no file": (["--config=configs/pal.py"], ["configs/pal.py", "pal_active"]),
    "config without get_config": (["--config={tmp}/noget.py"], ["noget.py", "get_config"]),
    "config with a syntax error": (["--config={tmp}/syntax.py"], ["syntax.py"]),
    "unknown key": ([PAL, "--config.asking.bugdet=7"], ["bugdet", "budget"]),
    "unknown section": ([PAL, "--config.askng.budget=7"], ["askng", "asking"]),
    "key of a value": ([PAL, "--config.seed.x=7"], ["seed"]),
    "section as a value": ([PAL, "--config.asking=7"], ["asking"]),
    "word for a number": (
        [PAL, "--config.train.learning_rate=high"],
        ["--config.train.learning_rate=high: it must be a number"],
    ),
    "fraction for a count": (
        [PAL, "--config.asking.budget=2.5"],
        ["--config.asking.budget=2.5: it must be a whole number"],
    ),
    "stray argument": ([PAL, "seed=1"], ["'seed=1'", "--config.seed=1"]),
    "an option without its section": ([PAL, "--config.budget=3"], ["no option 'budget'"]),
    "word for a yes or no": (
        [PAL, "--config.data.labels=maybe"],
        ["labels=maybe: it must be True or False"],
    ),
    "unknown flag with a section": ([PAL, "--conifg.seed=1"], ["conifg.seed", "mean 'config'"]),
    "unknown flag": ([PAL, "--wrkdir=x"], ["wrkdir", "workdir"]),
    "unknown data set kind": ([PAL, "--config.data.name=digit"], ["'digit'", "digits"]),
    "unknown loss": ([PAL, "--config.loss.name=vicrag"], ["'vicrag'", "'vicreg'", "simclr"]),
    "unknown encoder": ([PAL, "--config.model.encoder=resnet19"], ["resnet19", "resnet18"]),
    "unknown stem": ([PAL, "--config.model.stem=cifr"], ["cifr", "cifar"]),
    "unknown dtype": ([PAL, "--config.model.dtype=float61"], ["float61", "bfloat16"]),
    "unknown strategy": ([PAL, "--config.asking.strategy=rnd"], ["'rnd'", "random"]),
    "unknown oracle": ([PAL, "--config.oracle.name=label"], ["'label'", "'labels'"]),
    "unknown optimizer": ([PAL, "--config.train.optimizer=adam"], ["'adam'", "'adamw'"]),
    "budget of 0": ([PAL, "--config.asking.budget=0"], ["asking.budget=0", "at least 1"]),
    "audit beyond the budget": ([PAL, "--config.asking.budget=9"], ["asking.audit", "budget=9"]),
    "candidates beyond the budget": (
        [PAL, "--config.asking.candidates=9", "--config.asking.budget=48"],
        ["asking.candidates=9", "8 judgements"],
    ),
    "too little a round": ([PAL, "--config.asking.per_round=1"], ["asking.per_round=1", "0 to"]),
    "no round to ask in": ([PAL, "--config.train.rounds=1"], ["train.rounds=1", "at least 2"]),
    "flip of more than half": ([PAL, "--config.oracle.flip=0.7"], ["oracle.flip=0.7", "0.49"]),
    "as many wrong answers as right": (
        [PAL, "--config.asking.error_rate=0.5"],
        ["error_rate=0.5", "at most 0.49, since what is wrong half of the time says nothing"],
    ),
    "a negative rate of errors": ([PAL, "--config.asking.error_rate=-.5"], ["rate=-0.5", "or -1"]),
    "a negative prior rate": ([PAL, "--config.oracle.prior_error=-.5"], ["error=-0.5", "or -1"]),
    "one view": ([PAL, "--config.views.count=1"], ["views.count=1", "at least 2"]),
    "colour of grey images": ([SSL, "--config.views.hue=0.1"], ["views.hue=0.1", "1 channel"]),
    "negative rate": ([PAL, "--config.train.learning_rate=-1"], ["learning_rate=-1"]),
    "not a number": ([PAL, "--config.train.learning_rate=nan"], ["learning_rate=nan"]),
    "fewer steps than rounds": (
        [PAL, "--config.train.steps=9", "--config.train.warmup_steps=1"],
        ["train.steps=9", "train.rounds=10"],
    ),
    "warm-up without end": ([PAL, "--config.train.warmup_steps=9999"], ["warmup_steps=9999"]),
    "batch larger than the data": ([PAL, "--config.train.batch_size=2048"], ["2048", "1797"]),
    "data without a kind": (
        [SSL, "--config.data.name={tmp}/few"],
        ["{tmp}/few", "write folder:{tmp}/few"],
    ),
    "folder in the home of nobody": (
        [SSL, "--config.data.name=folder:~nobody-here/x"],
        ["~nobody-here/x", "write it out"],
    ),
    "folder missing": ([SSL, "--config.data.name=folder:{tmp}/nowhere"], ["{tmp}/nowhere"]),
    "folder empty": ([SSL, "--config.data.name=folder:{tmp}/empty"], ["{tmp}/empty"]),
    "folder is a file": ([SSL, "--config.data.name=folder:{tmp}/file.txt"], ["file.txt is a file"]),
    "all pictures broken": ([SSL, "--config.data.name=folder:{tmp}/broken"], ["a.png"]),
    "few pictures": ([SSL, "--config.data.name=folder:{tmp}/few"], ["256", "train.batch_size"]),
    "npz missing": (
        [SSL, "--config.data.name=arrays:{tmp}/no.npz"],
        ["{tmp}/no.npz does not exist", "numpy.savez"],
    ),
    "npz is a folder": ([SSL, "--config.data.name=arrays:{tmp}/few"], ["{tmp}/few is a folder"]),
    "npz unreadable": (
        [SSL, "--config.data.name=arrays:{tmp}/text.npz"],
        ["text.npz is not a whole .npz file"],
    ),
    "npz without x": ([SSL, "--config.data.name=arrays:{tmp}/nox.npz"], ["nox.npz", "x"]),
    "npz with pickles": (
        [SSL, "--config.data.name=arrays:{tmp}/pickled.npz"],
        ["pickled.npz", "holds Python objects"],
    ),
    "npz with one sample": (
        [SSL, "--config.data.holdout=0", "--config.data.name=arrays:{tmp}/one.npz"],
        ["1 sample", "one.npz", "two or more"],
    ),
    "npz with NaN": ([SSL, "--config.data.name=arrays:{tmp}/nan.npz"], ["nan.npz"]),
    "two configs": ([PAL, SSL], ["2 experiments", "one is needed"]),
    "mistyped key in a config": (["--config={tmp}/typo.py"], ["typo.py", "bugdet", "budget"]),
    "nothing for a number": (["--config={tmp}/nothing.py"], ["train.steps=None", "at least 1"]),
    "a config of one's own": (["--config={tmp}/own.py"], ["lacks", "configs.default"]),
    "two sizes of a projector": (
        [PAL, "--config.model.projector=(256,2)"],
        ["projector=(256, 2)", "three"],
    ),
    "a word in a projector": ([PAL, "--config.model.projector=('a',2,3)"], ["'a'", "three"]),
    "endless shift": ([PAL, "--config.views.shift=inf"], ["views.shift=inf", "finite"]),
    "endless labels": ([SSL, "--config.graph.labelled=inf"], ["graph.labelled=inf"]),
    "a trace of labels": (
        [SSL, "--config.graph.labelled=1e-5"],
        ["graph.labelled=1e-05", "0 labels"],
    ),
    "no temperature": ([PAL, "--config.loss.simclr.temperature=0"], ["simclr.temperature=0"]),
    "test on what was learned": ([SSL, "--config.data.test_split=train"], ["test_split=train"]),
    "two test sets": ([SSL, "--config.data.test_split=test"], ["holdout=0.2", "test_split=test"]),
    "features for a convnet": ([SSL, "--config.data.name=arrays:{tmp}/unlabelled.npz"], ["mlp"]),
    "name of 300 letters": ([PAL, "--workdir={tmp}/" + 300 * "x"], ["File name too long"]),
    "npz without samples": ([SSL, "--config.data.name=arrays:{tmp}/none.npz"], ["none.npz"]),
    "too few labels": ([SSL, "--config.data.name=arrays:{tmp}/short.npz"], ["7", "600"]),
    "no labels for the oracle": (
        [PAL, "--config.data.name=arrays:{tmp}/unlabelled.npz"],
        ["oracle.name=labels", "none"],
    ),
    "no labels to be known": (
        ["--config=configs/semi.py", "--config.data.name=arrays:{tmp}/unlabelled.npz"],
        ["graph.labelled=0.1", "none"],
    ),
    "more labels than samples": (
        [SSL, "--config.graph.labelled=5000"],
        ["graph.labelled=5000", "5000 labels"],
    ),
    "TFDS without a folder": ([SSL, "--config.data.name=tfds:mnist"], ["config.data.data_dir"]),
    "a stream of what is no TFDS set": (
        [SSL, "--config.data.stream=True"],
        ["'digits' cannot be streamed", "data.stream=False"],
    ),
    "TFDS folder is a file": (
        [SSL, "--config.data.name=tfds:mnist", "--config.data.data_dir={tmp}/file.txt"],
        ["{tmp}/file.txt is a file", "data.data_dir"],
    ),
    "TFDS set not there": (
        [SSL, "--config.data.name=tfds:mnist", "--config.data.data_dir={tmp}/empty"],
        ["mnist", "{tmp}/empty"],
    ),
    "file oracle without a file": ([PAL, "--config.oracle.name=file"], ["oracle.file"]),
    "answers missing": (
        [PAL, "--config.oracle.name=file", "--config.oracle.file={tmp}/no.jsonl"],
        ["from {tmp}/no.jsonl (No such file or directory); name a file"],
    ),
    "answers are a folder": (
        [PAL, "--config.oracle.name=file", "--config.oracle.file={tmp}/few"],
        ["from {tmp}/few (Is a directory); name a file"],
    ),
    "answers are no text": (
        [PAL, "--config.oracle.name=file", "--config.oracle.file={tmp}/few/a.png"],
        ["a.png (not text in UTF-8); name a file"],
    ),
    "answers about other data": (
        [PAL, "--config.oracle.name=file", "--config.oracle.file={tmp}/named.jsonl"],
        ["named.jsonl", "nothing about the samples of digits"],
    ),
    "answers that are none": (
        [PAL, "--config.oracle.name=file", "--config.oracle.file={tmp}/answers.jsonl"],
        ["answers.jsonl", "1"],
    ),
    "program oracle without a program": ([PAL, "--config.oracle.name=program"], ["command"]),
    "program that is not there": (
        [PAL, "--config.oracle.name=program", "--config.oracle.command=no-such-program x"],
        ["no-such-program"],
    ),
    "a script for a program": (
        [PAL, "--config.oracle.name=program", "--config.oracle.command={tmp}/answer.py"],
        ["answer.py", "'python {tmp}/answer.py'"],
    ),
    "prior missing": (
        [PAL, "--config.oracle.prior=missing.csv"],
        ["from missing.csv (No such file or directory); name a file such as the answers.jsonl"],
    ),
    "prior of another kind": (
        [PAL, "--config.oracle.prior={tmp}/labels.csv"],
        ["line 1 of {tmp}/labels.csv", '{"anchor": 3, "candidates": [5]', "not 'file,label'"],
    ),
    "prior with nothing in it": (
        [PAL, "--config.oracle.prior={tmp}/nothing.jsonl"],
        ["config.oracle.prior={tmp}/nothing.jsonl holds no answer;"],
    ),
    "prior of other names": (
        [PAL, "--config.oracle.prior={tmp}/named.jsonl"],
        ["names none of the 1797 samples of digits"],
    ),
    "prior of other data": (
        [PAL, "--config.oracle.prior={tmp}/far.jsonl"],
        ["far.jsonl", "sample 1797", "digits"],
    ),
    "processes without an address": (
        [PAL, "--config.hosts.processes=4", "--config.hosts.process=2"],
        ["hosts.processes=4", "hosts.process=2", "hosts.coordinator"],
    ),
    "journal of another run": (
        [PAL, "--config.checkpoint.journal={tmp}/other"],
        ["another run", "config.checkpoint.journal={tmp}/other"],
    ),
    "journal of nobody": (
        [PAL, "--config.checkpoint.journal={tmp}/orphan"],
        ["config.checkpoint.journal={tmp}/orphan", "journal.json"],
    ),
    "wrong value on another config": (
        [PAL, "--workdir={tmp}/other", "--config.model.dtype=float61"],
        ["float61", "bfloat16"],
    ),
    "workdir of another config": ([PAL, "--workdir={tmp}/other"], ["another run", "--workdir"]),
    "workdir with a torn config": ([PAL, "--workdir={tmp}/torn"], ["torn/config.json"]),
    "workdir of something else": ([PAL, "--workdir={tmp}/foreign"], ["thesis.tex"]),
    "journal is a file": (
        [PAL, "--config.checkpoint.journal={tmp}/file.txt"],
        ["--config.checkpoint.journal={tmp}/file.txt is a file"],
    ),
    "workdir is a file": ([PAL, "--workdir={tmp}/file.txt"], ["file.txt", "is a file"]),
    "workdir in the home of nobody": (
        [PAL, "--workdir=~nobody-here/x"],
        ["~nobody-here/x", "write it out"],
    ),
    "workdir below a file": ([PAL, "--workdir={tmp}/file.txt/x"], ["file.txt"]),
    "too little disk": ([PAL, "--config.checkpoint.free=1e9"], ["GiB", "checkpoint.free"]),
    "cloud workdir without its extra": (
        [PAL, "--workdir=gs://b/x"],
        ["gs://b/x", "requirements/tpu.txt"],
    ),
    "unknown kind of workdir": ([PAL, "--workdir=s3://b/x"], ["s3://b/x", "local folder"]),
    "too few devices": ([PAL, "--config.train.fsdp=3"], ["train.fsdp=3", "1 devices"]),
    "parts that do not divide": ([PAL, "--config.train.accumulate=7"], ["accumulate", "7 parts"]),
}


def _snapshot(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def _child(arguments, folder):
    """main.py's main, its output in files: the body of a process of its own."""
    os.chdir(ROOT)
    sys.argv = ["main.py", *arguments]  # where ml_collections looks for overrides
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
    import main

    sys.exit(main.main(sys.argv))


@pytest.fixture(scope="module")
def run_main():
    """(arguments, folder) -> (exit status, stderr) of main.py in a fresh process.

    The processes are forked from one that has imported everything and run nothing: a start costs
    milliseconds instead of seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pal_jax.run", "pal_jax.experiment"])

    def run(arguments, folder):
        process = context.Process(target=_child, args=(arguments, folder))
        process.start()
        process.join(120)
        return process.exitcode, (folder / "err").read_text()

    return run


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_one_sentence(case, tmp_path, run_main):
    files, output = tmp_path / "files", tmp_path / "output"
    files.mkdir()
    output.mkdir()
    _files(files)
    arguments, words = CASES[case]
    command = [a.replace("{tmp}", str(files)) for a in arguments]
    if not any(a.startswith("--workdir=") for a in command):
        command.append(f"--workdir={files}/run")
    before = _snapshot(files)
    status, stderr = run_main(command, output)
    assert status == 2, stderr
    assert "Traceback" not in stderr
    (sentence,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word.replace("{tmp}", str(files)) in sentence
    assert len(sentence) < 500
    assert _snapshot(files) == before


def test_the_command_itself_says_it_too(tmp_path):
    command = [sys.executable, "main.py", PAL, "--config.asking.bugdet=7"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "\\" not in done.stderr
    assert 'Did you mean "budget"' in done.stderr


def test_help_is_no_mistake():
    command = [sys.executable, "main.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "--config=configs/pal_active.py" in done.stdout


def test_what_the_system_refuses_says_what_to_do():
    told = sentence(PermissionError(13, "Permission denied", "run/config.json"))
    assert told.startswith("run/config.json: Permission denied; mend that and start the same")
