"""Every post's loss is saved in the order of the plan, over kills and over hosts."""

import numpy as np
import pytest

from mmkp_jax.data.forest import RowSize
from mmkp_jax.data.plan import plan_epoch
from mmkp_jax.training.post_losses import PostLosses

POSTS, ROWS, STEPS = 23, 2, 7
HAS_COT = np.arange(POSTS) % 3 == 0
SIZE = RowSize(tokens=10, labels=10, examples=3, images={"patches": 10, "windows": 10})
S = SIZE.examples


@pytest.fixture
def plans():
    size_N5 = np.random.default_rng(0).integers(1, 6, (POSTS, 5))
    size_N5[:, 4] = 1
    return [plan_epoch(size_N5, SIZE, seed=0, epoch=epoch, batch_rows=ROWS) for epoch in range(3)]


def losses(plans, step):
    """Losses of the batch of `step`: a post's number and its step; infinite in empty slots."""
    batches = [batch for plan in plans for batch in plan]
    nll_RS = np.full((ROWS, S), np.inf)
    for row, posts in enumerate(batches[step - 1]):
        nll_RS[row, : len(posts)] = np.asarray(posts) + step / 100
    return nll_RS


def record(kept_losses, step, nll_RS):
    """Takes losses, and CoT as the target of posts with an even number."""
    on_cot_RS = np.nan_to_num(nll_RS, posinf=0).astype(int) % 2 == 0
    kept_losses.record(step, nll_RS, np.where(np.isnan(nll_RS), np.nan, on_cot_RS))


def of_plan(plans, steps):
    """Epoch, post and step of every post of the first steps."""
    batches = [(epoch, batch) for epoch, plan in enumerate(plans) for batch in plan]
    return [(e, post, step) for step, (e, rows) in enumerate(batches[:steps], 1) for row in rows for post in row]


def kept(workdir):
    with np.load(workdir / "losses.npz") as file:
        return file["epoch_N"], file["post_N"], file["nll_sft_N"]


def test_each_post_of_each_epoch_is_saved_once_in_the_plans_order(plans, tmp_path):
    steps = sum(map(len, plans)) - 2  # the last epoch is cut short
    kept_losses = PostLosses(tmp_path, plans, HAS_COT, steps=steps, step=0)
    for step in range(1, steps + 1):
        record(kept_losses, step, losses(plans, step))
    kept_losses.write()
    epoch_N, post_N, nll_N = kept(tmp_path)
    expected = of_plan(plans, steps)
    assert epoch_N.tolist() == [epoch for epoch, _, _ in expected] and len(set(epoch_N)) == 3
    assert post_N.tolist() == [post for _, post, _ in expected]
    np.testing.assert_allclose(nll_N, [post + step / 100 for _, post, step in expected], rtol=1e-6)
    with np.load(tmp_path / "losses.npz") as file:
        assert file["on_cot_N"].tolist() == [post % 2 == 0 for post in post_N] and file["on_cot_N"].dtype == np.int8
        assert file["has_cot_N"].tolist() == [post % 3 == 0 for post in post_N]
    assert kept_losses.posts(2).tolist() == [post for _, post, step in expected if step == 2]


def test_a_resumed_run_drops_losses_after_its_step(plans, tmp_path):
    first = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=0)
    for step in range(1, 6):
        record(first, step, losses(plans, step))
    first.write()
    again = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=3)  # the checkpoint of step 5 was lost
    again.write()
    assert len(kept(tmp_path)[2]) == len(of_plan(plans, 3))
    for step in range(4, STEPS + 1):
        record(again, step, losses(plans, step))
    again.write()
    np.testing.assert_allclose(kept(tmp_path)[2], [p + s / 100 for _, p, s in of_plan(plans, STEPS)], rtol=1e-6)
    with np.load(tmp_path / "losses.npz") as file:
        assert file["on_cot_N"].tolist() == [post % 2 == 0 for post in file["post_N"]]


def test_targets_are_unknown_before_a_version_that_saves_them(plans, tmp_path):
    first = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=0)
    for step in range(1, 4):
        record(first, step, losses(plans, step))
    first.write()
    with np.load(tmp_path / "losses.npz") as file:
        older = {name: file[name] for name in file.files if name != "on_cot_N"}
    np.savez(tmp_path / "losses.npz", **older)
    again = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=3)
    record(again, 4, losses(plans, 4))
    again.write()
    before = len(of_plan(plans, 3))
    with np.load(tmp_path / "losses.npz") as file:
        assert (file["on_cot_N"][:before] == -1).all() and (file["on_cot_N"][before:] >= 0).all()
        assert np.isfinite(file["nll_sft_N"]).all()


def test_unknown_losses_are_nan_and_a_run_without_sft_targets_writes_no_file(plans, tmp_path):
    nothing = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=0)
    record(nothing, 1, np.full((ROWS, S), np.nan))
    nothing.write()
    assert not (tmp_path / "losses.npz").exists()
    late = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=2)  # started by a version that saved none
    record(late, 3, losses(plans, 3))
    late.write()
    before = len(of_plan(plans, 2))
    assert np.isnan(kept(tmp_path)[2][:before]).all() and np.isfinite(kept(tmp_path)[2][before:]).all()


def test_hosts_merge_their_losses(plans, tmp_path):
    hosts = [PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=0) for _ in range(2)]
    for step in range(1, 4):
        for host, each in enumerate(hosts):
            own = losses(plans, step)
            own[1 - host] = np.nan  # the other one's row
            record(each, step, own)
    parts = []
    hosts[1].merge(lambda part: parts.append(part) or part)
    hosts[0].merge(lambda part: np.where(np.isnan(part), parts[0], part))
    hosts[0].write()
    np.testing.assert_allclose(kept(tmp_path)[2], [p + s / 100 for _, p, s in of_plan(plans, 3)], rtol=1e-6)
    hosts[0].merge(lambda part: parts.append(part) or part)
    assert not len(parts[-1])  # nothing to merge


@pytest.mark.parametrize(
    "damaged",
    [
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_text("[1]"),
        lambda file: np.savez(file.open("wb"), post_N=np.zeros(3, np.int32)),
        lambda file: np.savez(file.open("wb"), post_N=np.zeros(3, np.int32), nll_sft_N=np.array([{"a": 1}] * 3)),
        lambda file: np.savez(file.open("wb"), post_N=np.zeros(3, np.int32), nll_sft_N=np.array(["a"] * 3)),
        lambda file: np.savez(file.open("wb"), post_N=np.full(30, 99), nll_sft_N=np.zeros(30, np.float32)),
        lambda file: np.savez(file.open("wb"), post_N=np.float32(1), nll_sft_N=np.float32(1)),
        lambda file: file.write_bytes(flipped(file.read_bytes())),
    ],
    ids=["cut", "empty", "text", "absent", "objects", "words", "other posts", "scalars", "bit"],
)
def test_a_damaged_file_is_set_aside_with_one_line_and_never_stops_a_run(plans, tmp_path, capsys, damaged):
    first = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=0)
    for step in range(1, 4):
        record(first, step, losses(plans, step))
    first.write()
    damaged(tmp_path / "losses.npz")
    again = PostLosses(tmp_path, plans, HAS_COT, steps=STEPS, step=3)
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith(f"{tmp_path / 'losses.npz'}: cannot be read (") and "put aside as losses.npz.damaged-" in line
    )
    assert [each.name.split("-")[0] for each in tmp_path.iterdir()] == ["losses.npz.damaged"]
    record(again, 4, losses(plans, 4))
    again.write()
    before = len(of_plan(plans, 3))
    assert np.isnan(kept(tmp_path)[2][:before]).all() and np.isfinite(kept(tmp_path)[2][before:]).all()


def flipped(content):
    """One bit of the losses' own array, which the archive's checksum covers."""
    place = content.index(b"nll_sft_N.npy") + 200
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
