"""python main.py --config=configs/pal_active.py [--workdir=DIR] [--config.KEY=VALUE ...]

Runs an experiment, or goes on with it where it stopped. Exit status: 0 done; 2 a mistake of the
user, told in one sentence; 130 interrupted, everything needed to go on is saved; 1 another process
of the run failed or is gone, and the same command, on as many processes as are left, goes on from
the last checkpoint.
"""

from pal_jax import memory

if __name__ == "__main__":
    memory.use_huge_pages()  # starts the program anew: before it has taken a second to import

import contextlib
import itertools
import logging
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

import absl.logging
from absl import flags
from ml_collections import ConfigDict, config_flags

from pal_jax.errors import (
    FailedAlone,
    Interrupted,
    LeadFailed,
    PeerLost,
    UserError,
    nearest,
    of_storage,
    sentence,
)
from pal_jax.signals import stop_on_signals

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The experiment, for example configs/pal_active.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where all files go; runs/NAME by default.")


# What Python and Absl say of a value that cannot be read -> what should have been given.
_WANTED = {
    r"invalid literal for int\(\) with base 10": "it must be a whole number",
    "could not convert string to float": "it must be a number",
    "Non-boolean argument to boolean flag": "it must be True or False",
}


def parse(argv: list[str]) -> tuple[ConfigDict, str]:
    """The config and the workdir that a command line asks for; a UserError says what is wrong."""
    given = [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
    given += [path for a, path in itertools.pairwise(argv) if a == "--config"]
    if len(given) != 1:
        raise UserError(
            f"{len(given) or 'no'} experiments given as --config=FILE; one is needed, for example "
            "--config=configs/pal_active.py"
        )
    path = given[0]
    if not Path(path).is_file():
        known = ", ".join(sorted(p.stem for p in Path("configs").glob("[!_]*.py")))
        raise UserError(f"--config={path} is no file; configs/ holds: {known}")
    try:
        stray = flags.FLAGS(argv)[1:]
    except Exception as error:  # parsing runs the user's config file, which may raise anything
        raise UserError(f"the command line does not fit {path}: {_misread(error)}") from None
    if stray:
        raise UserError(f"stray argument {stray[0]!r}; options look like --config.seed=1")
    if not isinstance(_CONFIG.value, ConfigDict):
        raise UserError(f"--config={path} has no get_config() that returns a ConfigDict")
    return _CONFIG.value, _WORKDIR.value or f"runs/{Path(path).stem}"


def _misread(error: Exception) -> str:
    """What went wrong with a flag, or in a config file."""
    if isinstance(error, flags.UnrecognizedFlagError):
        name, _, _ = error.flagname.partition(".")
        return f"there is no --{error.flagname}{nearest(name, ('config', 'workdir'))}"
    said: object = error
    while isinstance(said, (AttributeError, KeyError)) and said.args:
        said = said.args[0]  # may hold another, and the string of that is quoted and escaped
    # Absl shows what was raised by its arguments, all of them in brackets.
    text = re.sub(r"\('(.*)', '(.*)'\)$", r"\1: \2", " ".join(str(said).split()))
    for python, plain in _WANTED.items():
        text = re.sub(rf"{python}: .*", plain, text)
    if text.strip("'").isidentifier():
        text = f"there is no option {text}; those of a section are named with it"
    return text


def keep_compiled_programs() -> None:
    """Tells JAX where to keep what it compiles, for the next run; its own variables go first."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(RuntimeError):  # nobody's home, as in a container: nothing is kept
        place = caches.expanduser() / "pal_jax" / "compiled"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(place))
    # By default JAX keeps only what took a second: together the rest takes longer.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def _leave(status: int) -> NoReturn:
    """Ends this process at once, though others of the run would be waited for."""
    from pal_jax import hosts  # imported already, where there are other processes

    hosts.leave(status)


def main(argv: list[str]) -> int:
    if "--help" in argv:
        print(__doc__)
        return 0
    # Orbax logs tracebacks of what is told below, and leaves more of them to asyncio.
    absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        with stop_on_signals() as stop:
            config, workdir = parse(argv)
            keep_compiled_programs()
            # JAX takes a second to import: not before the command line is known to be right.
            from pal_jax import experiment, run

            if stop():
                raise Interrupted
            run.execute(experiment.build(config, workdir), stop)
    except (UserError, OSError) as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    except FailedAlone as error:
        print(f"error: {error}", file=sys.stderr)
        _leave(2)
    except LeadFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PeerLost as lost:
        print(f"error: {lost}; start the run again, on any number of processes", file=sys.stderr)
        _leave(1)
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if not of_storage(error):
            raise
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
