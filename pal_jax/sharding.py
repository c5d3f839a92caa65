"""One mesh for all devices: batches are split over it, weights are copied or, by choice, split.

A loss on a graph couples the rows of a batch, so the program is written for the *global* batch
and `jax.jit` splits it; a loss of each device's rows followed by a mean is another loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS, FSDP_AXIS = "data", "fsdp"


def make_mesh(devices: int | None = None, *, fsdp: int = 1) -> Mesh:
    """A mesh [devices / fsdp, fsdp] over the first `devices` devices, all by default.

    Rows are split over both axes; weights over `FSDP_AXIS` alone, so that there are devices / fsdp
    copies of them. The devices of one host are neighbours, so that it reads one stretch of rows;
    `jax.make_mesh` would order them by the wiring of a TPU, and refuses GPUs of several machines.

    Auto axes: the compiler places the collectives. Explicit axes refuse products such as Z^T Z
    over a split axis.

    Args:
        fsdp: devices that share one copy of the weights; must divide `devices`.
    """
    chosen = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))[:devices]
    return Mesh(
        np.array(chosen).reshape(-1, fsdp),
        (DATA_AXIS, FSDP_AXIS),
        axis_types=(AxisType.Auto, AxisType.Auto),
    )


def split_rows(mesh: Mesh) -> NamedSharding:
    """Sharding of an array whose first axis is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA_AXIS, FSDP_AXIS)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split_weights(mesh: Mesh, tree: Any) -> Any:
    """Shardings of weights or optimiser state: each array's longest axis that `FSDP_AXIS` divides.

    Arrays without such an axis, scalars among them, are copied; so are all when the axis has one
    device (ZeRO stage 3, Rajbhandari et al. 2020, where it has more).

    Args:
        tree: of arrays or shapes.
    """
    parts = mesh.shape[FSDP_AXIS]

    def split(array: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(array.shape) if size % parts == 0]
        if parts == 1 or not axes:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP_AXIS))

    return jax.tree.map(split, tree)


def data_parallel(apply: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """`apply` of a model, told to split rows and nothing else.

    Left to itself, the compiler makes up layouts for the activations from those of split weights.
    So weights are gathered where they are used, and their gradients are summed back into parts.

    Args:
        apply: (variables, x [N, ...], train=...) -> (h [N, H], z [N, K], batch_stats).
    """
    rows, copied = split_rows(mesh), replicated(mesh)
    constrain = jax.lax.with_sharding_constraint

    def split(variables: Any, x: Array, *, train: bool) -> tuple[Array, Array, Any]:
        variables, x = constrain(variables, copied), constrain(x, rows)
        h, z, batch_stats = apply(variables, x, train=train)
        return constrain(h, rows), constrain(z, rows), constrain(batch_stats, copied)

    return split


def put_key(mesh: Mesh, key: Array) -> Array:
    """A random key copied to every device; `key` must be equal on all hosts."""
    data = jax.device_get(jax.random.key_data(key))
    return jax.jit(jax.random.wrap_key_data, out_shardings=replicated(mesh))(data)


def put_rows(mesh: Mesh, rows: int, read: Callable[[slice], np.ndarray]) -> Array:
    """[rows, ...] split over the devices; each host reads only the rows of its own devices.

    Args:
        rows: a multiple of the devices.
        read: slice of rows -> their values [len, ...]; equal on all hosts where both read.
    """
    shape, place = (rows, *read(slice(0, 0)).shape[1:]), split_rows(mesh)
    indices = place.addressable_devices_indices_map(shape)
    parts = [
        jax.device_put(read(index[0] if index else slice(None)), device)
        for device, index in indices.items()
    ]
    return jax.make_array_from_single_device_arrays(shape, place, parts)
