"""One mesh axis over all devices: batches are split along it, everything else is copied.

A loss on a graph couples the rows of a batch, so the program is written for the *global* batch
and `jax.jit` splits it; a loss of each device's rows followed by a mean is another loss.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def data_mesh(devices: int | None = None) -> Mesh:
    """A mesh with the one axis `DATA_AXIS` over the first `devices` devices, all by default.

    Auto axes: the compiler places the collectives. Explicit axes, the default of
    `jax.make_mesh`, refuse products such as Z^T Z over a split axis.
    """
    chosen = jax.devices()[:devices]
    return jax.make_mesh((len(chosen),), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=chosen)


def split_rows(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis is spread over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
