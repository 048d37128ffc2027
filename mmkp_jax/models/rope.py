"""Frequencies of rotary positions, in numpy. I: pairs of a head's width."""

import dataclasses
import math

import numpy as np


def rotary_frequencies(width: int, theta: float) -> np.ndarray:
    """1 / theta^(2i / width) for i < width / 2, each of the three operations rounded to float32.

    So transformers computes them (its power is off by one unit in the last place now and then). One such unit is
    an angle of 1e-4 at position 2,000: rounding only once would cost parity there.
    """
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    power = np.power(np.float64(theta), exponent.astype(np.float64)).astype(np.float32)
    return np.float32(1) / power


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's scaling of rotary frequencies (`rope_type` "llama3"): low frequencies are divided by `factor`."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int
    """Positions that the model was trained on before its context was extended."""

    def __call__(self, frequency_I: np.ndarray) -> np.ndarray:
        """The scaled frequencies, float32.

        Every operation is rounded to float32 in transformers' order (`_compute_llama3_parameters`), so that the two are
        equal bit by bit. In between wavelengths of `original_positions` over the two factors it interpolates.
        """
        single = np.float32
        wavelength_I = single(2 * math.pi) / frequency_I
        longest, shortest = (
            single(self.original_positions / each) for each in (self.low_freq_factor, self.high_freq_factor)
        )
        scaled_I = np.where(wavelength_I > longest, frequency_I / single(self.factor), frequency_I)
        spread = single(self.high_freq_factor - self.low_freq_factor)
        smooth_I = (single(self.original_positions) / wavelength_I - single(self.low_freq_factor)) / spread
        between_I = (single(1) - smooth_I) * scaled_I / single(self.factor) + smooth_I * scaled_I
        is_between_I = ~(wavelength_I < shortest) & ~(wavelength_I > longest)
        return np.where(is_between_I, between_I, scaled_I).astype(single)


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding."""

    theta: float
    scaling: Llama3Scaling | None = None

    def frequencies(self, width: int) -> np.ndarray:
        """Radians a position for each pair of a head of this width, float32 [I]."""
        frequency_I = rotary_frequencies(width, self.theta)
        return self.scaling(frequency_I) if self.scaling else frequency_I
