"""Model FLOPs utilisation (MFU): the share of the devices' peak that goes to work that had to be done."""

from collections.abc import Sequence

import jax

from mmkp_jax.data.forest import Forest
from mmkp_jax.data.processor import holds_features
from mmkp_jax.models.definition import Definition
from mmkp_jax.models.flops import step_flops, work_of
from mmkp_jax.models.peaks import PEAK_FLOPS


def peak_flops(devices: Sequence[jax.Device], dtype: str) -> float | None:
    """FLOP/s of all devices together, or None where that is not known: other devices, other dtypes."""
    peaks = [PEAK_FLOPS.get(device.device_kind) for device in devices]
    return sum(peaks) if dtype == "bfloat16" and all(peaks) else None


def needed_flops(definition: Definition, freeze: Sequence[str], forest: Forest) -> float:
    """FLOPs that a train step over packed rows needs: no padding, nothing twice (`models.flops`).

    Args:
        freeze: what is frozen without LoRA, as in `config.freeze`.
        forest: numpy arrays with any leading axes.
    """
    features = holds_features(forest.images, definition.processor)
    flops = step_flops(definition, freeze, work_of(forest, definition.processor), features=features)
    return sum(part.total for part in flops.values())
