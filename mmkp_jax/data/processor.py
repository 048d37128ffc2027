"""The interface between rows of tokens and a family's images: what packing needs from a model family.

B rows, T token slots, A position axes, S images' slots by kind. Packing, objectives and sharding never look inside an
image: they know the tokens and the slots that it takes, and pass the family's own arrays through.
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
    """What an image becomes: computed once from its height and width, before it is decoded."""

    tokens: int
    """Image tokens of the prompt."""
    slots: tuple[int, ...]
    """Slots that the image takes in a row, in the order of `Processor.slots`."""
    shape: tuple[int, ...]
    """The family's own description, such as a grid of patches."""


class Processor(Protocol):
    """Preprocessing of a family's images; numpy and Pillow only, immutable and picklable.

    It is built from a model folder's own files, so that sizes, means and limits cannot disagree.
    """

    slots: tuple[str, ...]
    """The kinds of slots that images take in a row, besides tokens: keys of `config.row.images`.

    Attention over an image is between slots of the first kind.
    """
    values: str
    """Field of the images' arrays with what the tower reads: uint8 [B, S, …], S slots of the first kind.

    An image's are contiguous, in the order in which the tower returns its features, which may take their place
    (`holds_features`). "" in a family without images.
    """
    axes: int
    """Axes of a token's position: 3 with M-RoPE, else 1."""
    image_token: int | None
    """The token that a prompt has in a run for each image; None in a family without images."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that layouts and pixels depend on, except the images."""
        ...

    @property
    def settings(self) -> dict[str, int]:
        """The settings of `config.data.images`, with their values."""
        ...

    @property
    def pixel_limit(self) -> tuple[str, int] | None:
        """The setting that limits an image's pixels, and its value; None without a limit."""
        ...

    def default_slots(self, tokens: int) -> dict[str, int]:
        """Slots of each kind for a row of `tokens` tokens, where a config gives none."""
        ...

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The chat template in the form that this family's models take.

        Raises:
            InputError: the tokenizer cannot be used.
        """
        ...

    def layout(self, height: int, width: int) -> Layout:
        """What an image of this size in pixels becomes.

        Raises:
            ImageError: it is longer than `images.MAX_ASPECT` times its breadth; `prepare` and `predict` refuse such an
                image before, so no other shape may be refused here.
        """
        ...

    def largest(self) -> Layout:
        """A layout that takes at least as many tokens and slots as any image of usual shape."""
        ...

    @property
    def longest_image(self) -> int:
        """Most slots of the first kind that an image of any shape takes, as attention may assume; 0 for any number."""
        ...

    def placeholder(self, layout: Layout) -> np.ndarray:
        """The tokens that the template's one image token becomes, int32."""
        ...

    def pixels(self, image: "Image.Image", layout: Layout) -> np.ndarray:
        """An upright RGB image as the values that the model takes, uint8."""
        ...

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """Positions of a prompt's tokens, int32 [T, A]; those of later tokens count on from the last.

        Raises:
            ValueError: the image tokens do not match `layouts`.
        """
        ...

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> Any:
        """The family's NamedTuple of [B, …] arrays without any image; `()` in a family without images.

        Raises:
            ValueError: an image cannot be written into such slots.
        """
        ...

    def lay(
        self, row: Any, layout: Layout, pixels: np.ndarray | None, *, number: int, token: int, starts: Sequence[int]
    ) -> None:
        """Writes one image into views of a row.

        Args:
            pixels: None leaves out its values.
            number: which image of the row it is, from 1.
            token: the token slot at which its run of image tokens begins.
            starts: the first free slot of each kind.

        Raises:
            ValueError: the pixels do not match the layout.
        """
        ...

    def filled(self, images: Any) -> dict[str, Any]:
        """Masks of the filled slots of each kind, as bool arrays; also called on JAX arrays."""
        ...

    def rgb(self, row: Any) -> list[np.ndarray]:
        """The images of a row for people, uint8 [height, width, 3] each."""
        ...

    def work(self, images: Any, segment_BT: np.ndarray) -> dict[str, float]:
        """Quantities of packed images that FLOPs depend on, by the family's own names; any leading axes.

        Args:
            images: `Forest.images`.
            segment_BT: `Forest.segment_BT`, for attention of tokens to images.
        """
        ...

    def work_of_posts(self, slots_NX: np.ndarray, token_N: np.ndarray) -> dict[str, float]:
        """The quantities of `work`, summed over posts of at most one image each.

        Args:
            slots_NX: slots that each post's image takes, by kind.
            token_N: tokens of each post.
        """
        ...

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """The quantities of `work` for a program that computes every slot of a row, filled or not.

        Args:
            slots: `RowSize.slots`.
        """
        ...


def holds_features(images: Any, processor: Processor) -> bool:
    """Whether rows hold the tower's features in place of pixels (`feature_store.FeatureKind`)."""
    return bool(processor.values) and getattr(images, processor.values).dtype != np.uint8


@dataclasses.dataclass(frozen=True)
class TextProcessor:
    """The processor of a family without images: those of posts are ignored."""

    slots: ClassVar[tuple[str, ...]] = ()
    values: ClassVar[str] = ""
    axes: ClassVar[int] = 1
    image_token: ClassVar[None] = None
    fingerprint: ClassVar[str] = "text"
    settings: ClassVar[Mapping[str, int]] = {}
    pixel_limit: ClassVar[None] = None

    def default_slots(self, tokens: int) -> dict[str, int]:
        """No slots."""
        return {}

    def template(self, tokenizer: "PreTrainedTokenizerBase") -> Template:
        """The tokenizer's chat template, rendered with the user's text as one string.

        Raises:
            InputError: the tokenizer cannot be used.
        """
        return read_template(tokenizer, image_token=None)

    def largest(self) -> Layout:
        """An empty layout."""
        return Layout(0, (), ())

    longest_image: ClassVar[int] = 0

    def positions(self, prompt_T: np.ndarray, layouts: Sequence[Layout]) -> np.ndarray:
        """Token indices from 0, int32 [T, 1]."""
        return np.arange(len(prompt_T), dtype=np.int32)[:, None]

    def empty(self, rows: int, tokens: int, slots: Mapping[str, int]) -> tuple[()]:
        """No arrays."""
        return ()

    def filled(self, images: Any) -> dict[str, Any]:
        """Empty."""
        return {}

    def rgb(self, row: Any) -> list[np.ndarray]:
        """No images."""
        return []

    def work(self, images: Any, segment_BT: np.ndarray) -> dict[str, float]:
        """No work."""
        return {}

    def work_of_posts(self, slots_NX: np.ndarray, token_N: np.ndarray) -> dict[str, float]:
        """No work."""
        return {}

    def work_of_slots(self, slots: Mapping[str, int]) -> dict[str, float]:
        """No work."""
        return {}
