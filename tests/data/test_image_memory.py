"""Small files that are large once decoded: refused by what decoding would take, known from their header."""

import threading

import numpy as np
import pytest
from PIL import Image

from benchmarks.image_memory import make, peak_of
from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.image_memory import Budget
from mmkp_jax.data.images import decode, with_image
from tests.data.test_images import saved

SIDE = 9000
LARGE = {
    "16-bit PNG": lambda: saved(Image.fromarray(np.zeros((SIDE, SIDE), np.uint16))),
    "float TIFF": lambda: saved(Image.new("F", (SIDE, SIDE)), "TIFF", compression="tiff_adobe_deflate"),
    "GIF": lambda: saved(Image.new("P", (SIDE, SIDE)), "GIF", transparency=0),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_small_file_of_a_large_image_takes_no_more_than_the_limit(kind, monkeypatch):
    """Fed within the limit, or refused with the number that would let it through; both before it is decoded."""
    data = LARGE[kind]()
    assert len(data) < 2_000_000
    monkeypatch.setenv("MMKP_MAX_IMAGE_BYTES", str(100 << 20))
    with pytest.raises(ImageError, match="bytes") as refused:
        decode(data)
    assert "MMKP_MAX_IMAGE_BYTES" in refused.value.hint


def test_threads_that_feed_large_images_stay_within_the_limit(tmp_path, monkeypatch):
    """`benchmarks/image_memory.py` on smaller images: what the process held beyond the interpreter and one image."""
    names = ["sixteen.png", "float.tif", "clear.gif", "grey.jpg", "colour.jpg", "turned.jpg"]
    make(tmp_path, 4200, names)
    monkeypatch.setenv("MMKP_MAX_IMAGE_BYTES", str(100_000_000))
    taken, found = peak_of("feed", tmp_path, names, threads=6, rounds=1)
    assert {name for name, what in found.items() if "patches" in what} == {*names} - {"turned.jpg"}
    assert "more than 100,000,000 bytes" in found["turned.jpg"]
    assert 80e6 < taken < 160e6, f"{taken:,}"  # one at a time takes 88 MB, all at once 400 MB


def test_an_image_of_few_bytes_more_passes_where_the_limit_is_raised(monkeypatch):
    data = saved(Image.fromarray(np.full((300, 300), 777, np.uint16)))
    monkeypatch.setenv("MMKP_MAX_IMAGE_BYTES", "100000")
    with pytest.raises(ImageError):
        decode(data)
    monkeypatch.setenv("MMKP_MAX_IMAGE_BYTES", "1000000")
    assert decode(data).size == (300, 300)
    assert with_image(data, lambda image: image.size) == (300, 300)


def test_threads_share_one_budget(monkeypatch):
    """Never more than the limit at a time, and nobody waits for ever."""
    monkeypatch.setenv("MMKP_MAX_IMAGE_BYTES", "100")
    budget, held, most, lock = Budget(), [0], [0], threading.Lock()

    def take(amount: int) -> None:
        for _ in range(50):
            with budget.holding(amount):
                with lock:
                    held[0] += amount
                    most[0] = max(most[0], held[0])
                with lock:
                    held[0] -= amount

    threads = [threading.Thread(target=take, args=(amount,)) for amount in (10, 40, 60, 100, 33)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert not any(each.is_alive() for each in threads) and 0 < most[0] <= 100
