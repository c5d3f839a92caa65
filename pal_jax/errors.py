"""Mistakes of a user: one sentence each, which main.py prints without a traceback."""

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Packages behind gs://. Of what they raise (a wrong key, a server that is busy) not all is OSError.
_STORAGE = ("gcsfs", "google", "aiohttp", "fsspec")


class UserError(ValueError):
    """What was given, why it cannot work and what to do instead, in one sentence."""


class KnownToAllError(UserError):
    """The same where all processes of the run have been told of it: they leave in good order."""


def of_storage(error: Exception) -> bool:
    """Whether `error` comes from gs://, as an OSError or not."""
    return type(error).__module__.partition(".")[0] in _STORAGE


def sentence(error: Exception) -> str:
    """What main.py prints of a UserError, of an OSError or of what is `of_storage`.

    An OSError is a disk that is full, a file that may not be read.
    """
    if isinstance(error, UserError):
        return str(error)
    if of_storage(error) or not isinstance(error, OSError):
        told = " ".join(str(error).split())[:160]
        return (
            f"gs:// failed ({type(error).__name__}: {told}); see that the bucket is there and that "
            "your credentials may write to it, and start the same command again: it goes on"
        )
    return (
        f"{error.filename or 'a file'}: {error.strerror or error}; mend that and start the same "
        "command again: it goes on"
    )


def nearest(name: str, names: Iterable[str]) -> str:
    """' (did you mean X?)' for the name closest to `name`, or '' if none is close."""
    matches = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`; raises UserError with the nearest right name and all the others."""
    if name not in table:
        raise UserError(
            f"unknown {what} {name!r}{nearest(name, table)}; there are: {', '.join(sorted(table))}"
        )
    return table[name]


def at_home(path: str | os.PathLike[str]) -> Path:
    """`path` with ~ for the user's own folder: shells leave it alone behind "--workdir=".

    Raises:
        UserError: nobody of that name has one.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path} is in the home folder of nobody here; write it out") from None


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run was asked to stop (Ctrl-C, SIGTERM); what it needs to go on is on disk."""


class PeerLost(Exception):  # noqa: N818 - what happened, like Interrupted
    """Another process of the same run is gone; this one cannot go on without it."""


class FailedAlone(Exception):  # noqa: N818 - likewise
    """This process has failed, and the others wait for it: it must leave without waiting for them.

    Its text is the sentence of what failed.
    """


class LeadFailed(Exception):  # noqa: N818 - likewise
    """Process 0 of the same run has failed, and told the others; all leave in good order."""
