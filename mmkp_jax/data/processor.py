"""The seam between rows of tokens and a family's images: what packing asks of a model family.

B rows, T token slots, A position axes, S images' slots by kind. Packing, objectives and sharding never look inside an
image: they know the tokens and the slots that it takes, and carry the family's own arrays along.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from mmkp_jax.data.prompts import Template, read_template

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedTokenizerBase


class Layout(NamedTuple):
    """What an image becomes, known from its height and width before it is decoded, and handed along from there."""

    tokens: int
    """Image tokens of the prompt."""
    slots: tuple[int, ...]
    """Slots of a row that it takes, in the order of `Processor.slots`."""
    shape: tuple[int, ...]
    """The family's own: a grid of patches, say."""


class Processor(Protocol):
    """How a family's images are made ready; numpy and Pillow only, immutable and picklable.

    It is built from a model folder's own files, so that sizes, means and limits cannot disagree.
    """

    slots: tuple[str, ...]
    """The kinds of slots that images take in a row, besides tokens: keys of `config.row.images`."""
    axes: int
    """Axes of a token's position: 3 with M-RoPE, else 1."""
    image_token: int | None
    """The token whose run in a prompt stands for an image; None in a family without images."""

    @property
    def fingerprint(self) -> str:
        """Names all that layouts and pixels depend on, except the images."""
        ...

    @property
    def settings(self) -> dict[str, int]:
        """Those of `config.data.images`, with their values."""
        ...

    @property
    def pixel_limit(self) -> tuple[str, int] | None:
        """The setting, and its pixels, above which an image is made smaller; None where there is none."""
        ...

    def default_slots(self, tokens: int) -> dict[str, int]:
        """Slots of each kind for a row of `tokens` tokens, where a config gives none."""
        ...

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The chat template as this family's models are fed it.

        Raises:
            InputError: the tokenizer is unfit.
        """
        ...

    def layout(self, height: int, width: int) -> Layout:
        """What an image of this size in pixels becomes.

        Raises:
            ImageError: its shape cannot be used.
        """
        ...

    def largest(self) -> Layout:
        """A layout that takes at least what any image may take."""
        ...

    def placeholder(self, layout: Layout) -> np.ndarray:
        """The tokens that the template's one image token becomes, int32."""
        ...

    def pixels(self, image: "Image.Image", layout: Layout) -> np.ndarray:
        """The values that the model takes of an upright RGB image, uint8."""
        ...

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """Positions of a prompt's tokens, int32 [T, A]; those of what follows count on from the last.

        Raises:
            ValueError: the image tokens are not those of `layouts`.
        """
        ...

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> Any:
        """The family's NamedTuple of [B, …] arrays without any image; `()` in a family without images.

        Raises:
            ValueError: an image cannot be laid into such slots.
        """
        ...

    def lay(
        self, row: Any, layout: Layout, pixels: np.ndarray, *, number: int, token: int, starts: Sequence[int]
    ) -> None:
        """Writes one image into views of a row.

        Args:
            number: which image of the row it is, from 1.
            token: the token slot at which its run of image tokens begins.
            starts: the first free slot of each kind.

        Raises:
            ValueError: the pixels are not those of the layout.
        """
        ...

    def rgb(self, row: Any) -> list[np.ndarray]:
        """The images of a row for people, uint8 [height, width, 3] each."""
        ...

    def work(self, images: Any) -> dict[str, float]:
        """What FLOPs count of packed images, with any axes in front; by the family's own names."""
        ...

    def work_of_posts(self, slots_NX: np.ndarray) -> dict[str, float]:
        """The same, summed over posts with at most one image each, from the slots that each takes."""
        ...

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """The same of a program that looks at every slot of a row, filled or not."""
        ...


def filled(images: Any) -> dict[str, Any]:
    """Which slots of each kind hold something, as bool arrays; nothing in a family without images."""
    return images.filled() if images else {}


@dataclasses.dataclass(frozen=True)
class TextProcessor:
    """The processor of a family without images: posts are fed without theirs."""

    slots: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[int] = 1
    image_token: ClassVar[None] = None
    fingerprint: ClassVar[str] = "text"
    settings: ClassVar[Mapping[str, int]] = {}
    pixel_limit: ClassVar[None] = None

    def default_slots(self, tokens: int) -> dict[str, int]:
        """None."""
        return {}

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The tokenizer's chat template, given the user's text as it is.

        Raises:
            InputError: the tokenizer is unfit.
        """
        return read_template(tokenizer, image_token=None)

    def largest(self) -> Layout:
        """Nothing."""
        return Layout(0, (), ())

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """Tokens counted from 0: int32 [T, 1]."""
        return np.arange(len(prompt_T), dtype=np.int32)[:, None]

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> tuple[()]:
        """No arrays."""
        return ()

    def rgb(self, row: Any) -> list[np.ndarray]:
        """None."""
        return []

    def work(self, images: Any) -> dict[str, float]:
        """None."""
        return {}

    def work_of_posts(self, slots_NX: np.ndarray) -> dict[str, float]:
        """None."""
        return {}

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """None."""
        return {}
