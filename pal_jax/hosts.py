"""Several processes that train together: how they start, and what one says to the others.

Process 0 leads: it owns the oracle, the journal and every file but the checkpoints, to which each
process writes what its devices hold. All run the same program on the same batches, so that what
only the leader knows (answers, a request to stop) must be passed on. With one process all of this
costs nothing.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax._src import distributed  # the coordination service has no public door
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from pal_jax import sharding
from pal_jax.errors import (
    FailedAlone,
    Interrupted,
    KnownToAllError,
    LeadFailed,
    PeerLost,
    UserError,
    sentence,
)
from pal_jax.signals import leaving_at_once

T = TypeVar("T")

# What says that a scheduler started several processes, which JAX then asks for all the rest.
_SIGNS = ("JAX_COORDINATOR_ADDRESS", "MEGASCALE_COORDINATOR_ADDRESS")
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_CHUNK = 2**16  # bytes; broadcasts are padded to a multiple, since each size is a program
_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
_LEAVING = 60  # seconds that one which leaves in good order waits for the others to do so
_LAST_WORDS = 3.0  # seconds that process 0 waits for the others when it does not
_LOOK = 1.0  # seconds after which one that waits looks whether another has failed alone
_turns = itertools.count()  # of `everyone` and `_broadcast`: their keys in the coordination service


def start(coordinator: str, processes: int, process: int, timeout: float) -> None:
    """Joins the other processes; must come before anything that uses a device.

    A no-op in a process that is alone or has joined already.

    Args:
        coordinator: "address:port" of process 0; "" lets JAX find the others where TPU, SLURM or
            Open MPI tell it, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
        processes: how many there are; 0 as `coordinator` = "".
        process: which one this is, from 0; -1 as `coordinator` = "".
        timeout: seconds that a process waits for the others.

    Raises:
        UserError: what was given cannot work. Where the others do not come in time, the process
            ends with exit status 2 and a sentence instead.
    """
    if (processes or process >= 0) and not (
        coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    ):
        raise UserError(
            f"hosts.processes={processes} and hosts.process={process} do not say where the others "
            "are; give hosts.coordinator=ADDRESS:PORT of process 0 as well, or none of the three"
        )
    told = bool(coordinator) or _expected()
    if jax.distributed.is_initialized() or not (told or _may_be_tpu()):
        return
    option = "hosts.coordinator" if coordinator else "JAX_COORDINATOR_ADDRESS"
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    if coordinator and not _is_address(coordinator):
        raise UserError(
            f"{option}={coordinator} is not ADDRESS:PORT of process 0, such as 10.0.0.1:8476"
        )
    processes = processes or _number("JAX_NUM_PROCESSES", 0)
    process = process if process >= 0 else _number("JAX_PROCESS_ID", -1)
    # Its handler of SIGTERM would take the place of ours, which also knows Ctrl-C.
    jax.config.update("jax_enable_preemption_service", False)
    failed = (
        f"this process ({process if process >= 0 else 'as the scheduler says'}) could not join "
        f"the others at {coordinator or 'the address that the scheduler gives'}"
    )
    advice = (
        f"start all {f'{processes} ' if processes else ''}of them with the same hosts.coordinator "
        "and hosts.processes, each with its own hosts.process, and let that port through, or take "
        "another where it is in use"
    )
    try:
        _join(
            timeout,
            f"{failed} within {timeout:g} s; {advice}",
            coordinator_address=coordinator or None,
            num_processes=processes or None,
            process_id=process if process >= 0 else None,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        if not told:  # JAX knows of no others, and so there are none
            return
        if coordinator and not (processes and process >= 0):
            raise UserError(
                f"{option}={coordinator} says where process 0 is, and nothing says how many there "
                "are and which one this is; give hosts.processes and hosts.process as well"
            ) from None
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{failed} ({reason}); {advice}") from None


def _join(seconds: float, late: str, **who: str | int | None) -> None:
    """jax.distributed.initialize; ends the process with `late` where it takes longer.

    JAX waits in C++, where no signal is handled, and aborts without a word that helps when it gives
    up: so it waits in another thread.
    """
    errors: list[Exception] = []

    def join() -> None:
        try:
            jax.distributed.initialize(
                **who,  # pyright: ignore[reportArgumentType]
                initialization_timeout=round(seconds) + 60,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_LEAVING,
            )
        except Exception as error:  # for the caller, whatever it is
            errors.append(error)

    thread = threading.Thread(target=join, daemon=True)
    with leaving_at_once("interrupted before the others had joined; nothing was changed"):
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        print(f"error: {late}", file=sys.stderr, flush=True)
        os._exit(2)
    if errors:
        raise errors[0]


def _is_address(text: str) -> bool:
    address, _, port = text.rpartition(":")
    return bool(address) and port.isdecimal() and 0 < int(port) < 2**16


def _number(name: str, otherwise: int) -> int:
    """What the environment says; `otherwise` where it says nothing."""
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise UserError(f"{name}={text} in the environment is no number; mend or unset it")
    return int(text or otherwise)


def _expected() -> bool:
    """Whether the environment speaks of more than one process."""
    environment = os.environ
    return (
        any(environment.get(name) for name in _SIGNS)
        or any(_number(name, 1) > 1 for name in _COUNTS)
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    )


def _may_be_tpu() -> bool:
    """Whether JAX should be asked if this machine is part of a TPU slice: its metadata say so."""
    platforms = os.environ.get("JAX_PLATFORMS", "tpu")
    return "tpu" in platforms and importlib.util.find_spec("libtpu") is not None


def lead() -> bool:
    """Whether this is process 0."""
    return jax.process_index() == 0


def only_lead(action: Callable[[], Any]) -> Any:
    """What `action`, done by process 0 alone, returns (JSON-able), in every process.

    All processes must call it at the same place; the others wait, and end as process 0 does.

    Raises:
        Interrupted: in all of them, where `action` does.
        KnownToAllError: in process 0 of several, where `action` raises UserError or OSError.
        LeadFailed: in the others, where `action` raises anything but Interrupted.
    """
    if jax.process_count() == 1:
        return action()
    if not lead():
        message = _broadcast(None)
        if message["end"] == "stopped":
            raise Interrupted
        if message["end"] == "failed":
            raise LeadFailed("process 0 has failed, and says why")
        return message["value"]
    try:
        value = action()
    except Interrupted:
        _broadcast({"end": "stopped"})
        raise
    except PeerLost:
        raise
    except BaseException as error:
        _broadcast({"end": "failed"})
        if isinstance(error, UserError | OSError):
            raise KnownToAllError(sentence(error)) from error
        raise
    return _broadcast({"end": "", "value": value})["value"]


def fail_together(wrong: str | None) -> None:
    """Raises KnownToAllError in all processes where any is `wrong`: each says its own sentence."""
    if any(everyone(wrong is not None)):
        raise KnownToAllError(wrong or "another process of this run cannot go on, and says why")


def all_or_none(action: Callable[[], T]) -> T:
    """What `action` returns in each process, none of which may need the others to do it.

    Raises:
        KnownToAllError: in all of several processes, where in any `action` raises UserError or
            OSError.
    """
    if jax.process_count() == 1:
        return action()
    done: list[T] = []
    wrong = None
    try:
        done.append(action())
    except (UserError, OSError) as error:
        wrong = sentence(error)
    fail_together(wrong)
    return done[0]


def lead_keeps(action: Callable[[], T]) -> T | None:
    """What `action`, done by process 0 alone, returns, in process 0; None in the others."""
    kept: list[T] = []
    only_lead(lambda: kept.append(action()))
    return kept[0] if kept else None


def everyone(said: T) -> list[T]:
    """What each process says (short, JSON-able), process 0 first, in all of them.

    All must call it at the same place.
    """
    if jax.process_count() == 1:
        return [said]
    turn = next(_turns)
    _say(f"{turn}/{jax.process_index()}", json.dumps(said))
    return [json.loads(_hear(f"{turn}/{process}")) for process in range(jax.process_count())]


def _say(key: str, text: str) -> None:
    _service().key_value_set(f"pal_jax/{key}", text)


def _service() -> Any:
    """JAX's coordination service, in which process 0 keeps texts by keys."""
    return distributed.global_state.client


def _hear(key: str) -> str:
    """The text that another process says, or has said, under `key`; takes as long as it takes.

    The coordination service waits, which aborts this process when another one dies. XLA gives up
    on a collective after half an hour, and people may need longer for their answers.
    """
    service = _service()
    while True:
        try:
            return service.blocking_key_value_get(f"pal_jax/{key}", round(1000 * _LOOK))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        for _, who in service.key_value_dir_get("pal_jax/failed"):
            raise PeerLost(f"another process of this run is gone ({who} has failed, and says why)")


def _broadcast(message: Any) -> Any:
    """Process 0's `message` (JSON-able) in every process; None is handed in by the others."""
    turn = f"{next(_turns)}"
    if lead():
        _say(turn, "ready")
    else:
        _hear(turn)
    text = np.frombuffer(json.dumps(message).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    padded = np.resize(text, -(-size // _CHUNK) * _CHUNK)
    content = multihost_utils.broadcast_one_to_all(padded)
    return json.loads(np.asarray(content, np.uint8)[:size].tobytes())


def agreed(stop: Callable[[], bool], mesh: Mesh) -> Callable[[], bool]:
    """`stop` of any process, as a function that all must call equally often: all say the same.

    The devices reduce the flags, and each call returns what the last one set going: nobody waits
    for more than the step before.
    """
    if jax.process_count() == 1:
        return stop
    reduce = jax.jit(jnp.any, out_shardings=sharding.replicated(mesh))
    under_way: list[Array] = []

    def anyone() -> bool:
        asked = stop()
        flags = sharding.put_rows(
            mesh, mesh.size, lambda rows: np.full(len(range(mesh.size)[rows]), asked)
        )
        under_way.append(reduce(flags))
        return len(under_way) > 1 and bool(jax.device_get(under_way.pop(0)))

    return anyone


# What the errors of a broken connection speak of: Gloo raises a ValueError, NCCL and the
# coordination service a JaxRuntimeError.
_BROKEN = ("Gloo", "NCCL", "CoordinationService", "Connection", "UNAVAILABLE")


@contextlib.contextmanager
def noticing_failures() -> Iterator[None]:
    """What cannot end in good order, as its own error; does nothing in a process alone.

    Raises:
        PeerLost: for what a broken connection raises.
        FailedAlone: for UserError and OSError that the others have not been told of.
    """
    try:
        yield
    except KnownToAllError:
        raise
    except (UserError, OSError) as error:
        if jax.distributed.is_initialized() and jax.process_count() > 1:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 may be gone as well
                _say(f"failed/{jax.process_index()}", f"process {jax.process_index()}")
            raise FailedAlone(sentence(error)) from error
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if not is_lost_peer(error):
            raise
        first = str(error).splitlines()[0]
        raise PeerLost(f"another process of this run is gone ({first[:160]})") from error


def leave(status: int) -> NoReturn:
    """Ends this process at once. In good order would be to wait, for a minute, for the others.

    With process 0 ends what JAX watches all of them by, which then aborts them: it waits a little,
    for they may be about to fail likewise, or to notice that another one has.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if lead():
        time.sleep(_LAST_WORDS)
    os._exit(status)


def is_lost_peer(error: Exception) -> bool:
    """Whether `error` is what a broken connection to another process raises."""
    if jax.process_count() == 1 or isinstance(error, UserError):
        return False
    first = (str(error).splitlines() or [""])[0]
    return any(word in first for word in _BROKEN)
