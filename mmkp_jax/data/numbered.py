"""Posts by number, read on demand, so that a split's images are never in memory all at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, overload

from mmkp_jax.data.image_files import ImageError, image_path
from mmkp_jax.data.posts import Post, Record
from mmkp_jax.errors import InputError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Numbered(Protocol[T_co]):
    """Anything that gives posts by number; called in several threads, and more than once for a post."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> T_co: ...


@dataclass(frozen=True)
class OnDemand(Sequence[T]):
    """A lazy sequence of `size` posts, each read when it is indexed; slices are lazy too."""

    size: int
    read: Callable[[int], T]

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, number: int) -> T: ...

    @overload
    def __getitem__(self, number: slice) -> "OnDemand[T]": ...

    def __getitem__(self, number: "int | slice") -> "T | OnDemand[T]":
        if isinstance(number, slice):
            return self.select(range(self.size)[number])
        if not 0 <= number < self.size:
            raise IndexError(number)
        return self.read(number)

    def select(self, numbers: Sequence[int]) -> "OnDemand[T]":
        """The posts of these numbers, in this order, read on demand."""
        return OnDemand(len(numbers), lambda index: self.read(numbers[index]))


def each_of(posts: Numbered[T]) -> Iterator[T]:
    """Yields every post, in the order of their numbers."""
    return (posts[number] for number in range(len(posts)))


def records_of(posts: Sequence[Post], images: Path | None) -> OnDemand[Record]:
    """Posts of a file as records, without the images' sizes; each image is read, undecoded, when its post is.

    Raises:
        InputError: an image is missing, now or when its post is read.
    """
    files: list[Path | None] = []
    for post in posts:
        if post.image is not None and images is None:
            what = f"its post has the image {post.image!r}"
            raise InputError(what, f"{post.file}:{post.line}", "give the folder of images, with --images")
        try:
            files.append(image_path(images, post.image) if post.image is not None else None)
        except ImageError as error:
            hint = "fix the path or --images, or write null for a post without one"
            raise InputError(error.reason, f"{post.file}:{post.line}", hint) from None

    def read(number: int) -> Record:
        post, file = posts[number], files[number]
        try:
            image = file.read_bytes() if file else b""
        except OSError as error:
            raise InputError(
                f"the image cannot be read ({error.strerror})", str(file), "check the file and its permissions"
            ) from None
        return Record(post.id, post.text, image, 0, 0, post.keyphrases, post.cot)

    return OnDemand(len(posts), read)
