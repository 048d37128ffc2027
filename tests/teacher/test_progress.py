import contextlib

from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.progress import AskState, ProgressBar


def test_answers_that_were_there_are_no_part_of_the_rate(capsys):
    run = AskState(1000)
    with contextlib.closing(ProgressBar(1000, Prices())) as progress:
        for run.found, run.asked in [(400, 0), (700, 1), (700, 2)]:
            progress(run)
        told = progress._bar.format_dict
    assert (told["initial"], told["n"]) == (700, 702)
