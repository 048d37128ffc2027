import contextlib

from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.progress import Progress, Run


def test_answers_that_were_there_are_no_part_of_the_rate(capsys):
    run = Run(1000)
    with contextlib.closing(Progress(1000, Prices())) as progress:
        for run.found, run.asked in [(400, 0), (700, 1), (700, 2)]:
            progress(run)
        told = progress._bar.format_dict
    assert (told["initial"], told["n"]) == (700, 702)
