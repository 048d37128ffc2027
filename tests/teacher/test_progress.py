import contextlib

from mmkp_jax.teacher.cost import Prices
from mmkp_jax.teacher.progress import AskState, ProgressBar


def test_stored_answers_do_not_count_in_the_rate(capsys):
    run = AskState(1000)
    with contextlib.closing(ProgressBar(1000, Prices())) as progress:
        for run.found, run.asked in [(400, 0), (700, 1), (700, 2)]:
            progress(run)
        state = progress._bar.format_dict
    assert (state["initial"], state["n"]) == (700, 702)
