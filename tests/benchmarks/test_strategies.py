"""The miniature of Table 4: what its runs differ in, and its tables where every answer is known."""

import pytest

from benchmarks import staged, strategies
from benchmarks.jobs import run_all
from benchmarks.scored import read_results
from benchmarks.strategies import keep_complete, show, strategy_results
from benchmarks.systems import (
    AT_HALF,
    BASELINES,
    BY_BASELINE,
    BY_DECISION,
    BY_GAMMA,
    BY_STRATEGY,
    DECIDED,
    OURS,
    OVERRIDES,
    PAPERS,
    STAGED,
    comparable,
    jobs_of,
    pocket_of,
)
from mmkp_jax.errors import InputError
from mmkp_jax.runtime.config import leaves, read_config
from tests.support.finished_runs import complete, config_of, row_of
from tests.support.small_pocket import metrics, run_here, small_pocket
from tests.support.zoo import model_of, write_folder


def differing(one, other):
    """The fields in which two configs differ."""
    one, other = dict(leaves(one)), dict(leaves(other))
    return {name for name in one | other if one.get(name) != other.get(name)}


def test_runs_differ_in_strategy_gamma_and_seed_alone(tmp_path):
    configs = {(job.system, job.seed): config_of(job) for job in jobs_of(2, tmp_path)}
    ours = configs[OURS, 0]
    assert (ours["strategy"], ours["gamma"], ours["gamma_mode"], ours["pack_for"]) == ("dyncot", 0.4, "fixed", "both")
    assert len(configs) == 2 * len(OVERRIDES) - 1  # zero-shot once
    for (system, seed), config in configs.items():
        assert differing(ours, config) <= {"strategy", "gamma", "gamma_mode", "seed"}
        assert system == OURS or differing(configs[OURS, seed if system != "zeroshot" else 0], config)
        assert seed == 0 or differing(configs[system, 0], config) == {"seed"}


def test_posts_of_another_seed_are_another_folder_and_nothing_else(tmp_path, capsys):
    asked = ({"decisions": True, "baselines": True, "posts": posts} for posts in (0, 1))
    for one, other in zip(*(jobs_of(1, tmp_path, **each) for each in asked), strict=True):
        assert one.workdir != other.workdir
        assert differing(config_of(one), config_of(other)) == {"make", "data.path", "data.kinds"}
        assert config_of(other)["data"]["path"] == f"{pocket_of(1)}/dataset"
    with pytest.raises(SystemExit):
        strategies.run(["--posts=1", "--presets=model=qwen2_5_3b,data=mmkp_v2"])
    assert "give one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--seeds=0"], "--seeds is at least 1"),
        (["--jobs=-1"], "at least 0"),
        (["--posts=-1"], "at least 0"),
        (["--presets=model=foo"], "foo"),
        (["--runs=README.md"], "this is a file"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused_in_one_line(flags, what, capsys):
    with pytest.raises((SystemExit, InputError)) as caught:
        strategies.run(flags)
    assert what in f"{capsys.readouterr().err}{caught.value}"


def test_a_job_that_cannot_start_ends_them_all(tmp_path):
    (tmp_path / "file").write_text("")
    jobs = [job._replace(workdir=tmp_path / "file" / job.name) for job in jobs_of(1, tmp_path)[:3]]
    with pytest.raises(OSError):
        run_all(jobs, 1)


def test_runs_by_decision_differ_in_their_decision_alone(tmp_path):
    jobs = jobs_of(1, tmp_path, decisions=True)
    configs = {job.system: config_of(job) for job in jobs if job.system in DECIDED and job.system != STAGED}
    ours = config_of(next(job for job in jobs if job.system == OURS))
    assert {job.system for job in jobs} == set(BY_DECISION) and len(configs) == len(DECIDED) - 1
    for system, config in configs.items():
        assert differing(ours, config) <= {"strategy", "decision", "gamma_mode"} and differing(ours, config)
        assert all(config in (each,) or differing(config, each) for each in configs.values())
        if system.endswith("half"):
            assert config["gamma_share"] == 0.5
            assert config["gamma_mode"] == "quantile" or config["decision"].startswith("random")


def test_the_staged_recipe_has_both_halves_of_a_run(tmp_path, monkeypatch):
    """SFT, an export, and Fine-tune-CoT from it; a half that is complete is not run again."""
    calls, job = [], next(job for job in jobs_of(1, tmp_path, decisions=True) if job.system == STAGED)

    def finish(name):
        return lambda flags: calls.append((name, flags)) or 0

    monkeypatch.setattr(staged, "main", finish("main"))
    monkeypatch.setattr(staged, "export", finish("export"))
    module, *flags = job.command()[2:]
    assert module == "benchmarks.staged" and staged.run(flags) == 0
    (_, sft), (_, export), (_, cot) = calls
    first, second = (read_config(each[0].removeprefix("--config="), each[1:-1]) for each in (sft, cot))
    whole = config_of(job)
    assert (first.strategy, second.strategy) == ("sft", "cot")
    assert first.num_epochs + second.num_epochs == whole["num_epochs"] and first.num_epochs == second.num_epochs
    assert differing(whole, second.to_dict()) == {"num_epochs", "model.path"}
    assert export[-1] == f"--out={second.model.path}" and cot[-1] == f"--workdir={job.workdir}"
    assert sft[-1] == export[0] == f"--workdir={job.workdir}-first"
    half = tmp_path / "staged-seed0-first" / "half"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    calls.clear()
    assert staged.run(flags) == 0 and [name for name, _ in calls] == ["main"]


def test_a_table_by_decision_of_known_answers(tmp_path, dataset, capsys):
    jobs = jobs_of(1, tmp_path / "runs", decisions=True)
    for job in jobs:
        complete(job, right=job.system == OURS)
    show(jobs)
    table = capsys.readouterr().out.split("By decision")[1]
    whole, none = ["100.00", "(100.0–100.0)"], ["0.00", "(0.0–0.0)"]
    facts = ["1", "7", "14", "3,500", "25.00%"]
    for name, cells in {
        "Dynamic CoT, γ 0.4": whole,
        "Dynamic CoT (mode_free), γ 0.4": none,
        "Dynamic CoT (random), γ of 50%": none,
        "decoupled (mode_free), γ of 50%": none,
        "SFT, then Fine-tune-CoT": none,
    }.items():
        assert row_of(f"By decision{table}", "By decision", name) == [*cells * 4, *facts]


def test_rules_at_half_are_compared_with_the_papers_at_half(tmp_path, dataset, capsys):
    jobs = jobs_of(1, tmp_path / "runs", decisions=True)
    for job in jobs:
        complete(job, right=job.system == PAPERS)
    show(jobs)
    table = capsys.readouterr().out.split("Dynamic CoT, γ of 50% minus")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if " all " in line and "+100.00" in line]
    assert len(rows) == len(AT_HALF) - 1 and "decoupled (mode_free), γ of 50%" in table


def test_every_complete_run_is_kept_also_of_a_seed_that_is_not_whole(tmp_path, dataset, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "benchmarks.strategies.keep", lambda results: kept.append({n: r.seeds for n, r in results.items()})
    )
    jobs = jobs_of(2, tmp_path / "runs", decisions=True)
    for job in jobs:
        if (job.system, job.seed) in {("zeroshot", 0), ("sft", 0), (OURS, 0), (OURS, 1), (PAPERS, 1)}:
            complete(job, right=True)
    keep_complete(jobs)
    assert kept == [{"zeroshot": [0], "sft": [0], OURS: [0]}, {OURS: [1], PAPERS: [1]}]


def test_gates_of_decisions_are_those_of_the_strategies_in_the_same_folder(tmp_path, dataset):
    for job in jobs_of(1, tmp_path):
        if job.system in BY_STRATEGY:
            complete(job, right=False)
    asked = jobs_of(1, tmp_path, gammas=True)
    assert not any(job.system == "zeroshot" for job in asked)
    assert list(strategy_results(asked)) == list(BY_STRATEGY)


def test_a_run_on_other_posts_is_refused(tmp_path, dataset):
    jobs = [job for job in jobs_of(1, tmp_path) if job.system in BY_STRATEGY]
    for job in jobs:
        complete(job, right=True)
        file = job.workdir / "predictions" / "test-7.jsonl"
        file.write_text(file.read_text().replace("a cat", "a cow"))
    with pytest.raises(InputError, match=r"the keyphrases of 4 ids .* are not those of the posts"):
        read_results(BY_STRATEGY, jobs)


def test_a_sweep_of_gamma_trains_a_published_model_on_one_dataset(tmp_path):
    presets = "model=qwen2_5_vl_3b,data=mmkp_v2,mesh=h100_1"
    jobs = jobs_of(1, tmp_path, presets, gammas=True)
    assert [job.system for job in jobs] == [system for system in OVERRIDES if system in BY_GAMMA]
    configs = [config_of(job) for job in jobs]
    for config in configs:
        assert config["model"]["path"] == "Qwen/Qwen2.5-VL-3B-Instruct" and config["data"]["path"] == "data/mmkp_v2"
        assert differing(configs[0], config) <= {"gamma", "gamma_mode"}
    assert len({(config["gamma"], config["gamma_mode"]) for config in configs}) == len(configs)


@pytest.mark.nightly
def test_a_sweep_of_gamma_really_trains_on_one_dataset_and_one_cache_of_sizes(tmp_path, capsys):
    """A text model's preset with a tiny folder in the published one's place: the same posts in the same steps, and the
    table of what was trained. The command differs from `command()` in the flags of the tiny sizes alone."""
    model, pocket = write_folder(tmp_path / "model", model_of("qwen2")), small_pocket(tmp_path)
    jobs = jobs_of(1, tmp_path / "runs", "model=qwen2_5_3b,data=mmkp_v2,mesh=h100_1", gammas=True)
    jobs = [job for job in jobs if job.system in (OURS, "dyncot-avg")]
    tiny = {
        "model.path": model,
        "data.path": pocket / "dataset",
        "data.max_text_tokens": 64,
        "row.tokens": 1024,
        "row.tree_tokens": 1024,
        "row.labels": 512,
        "row.examples": 4,
        "global_batch_size": 2,
        "total_steps": 2,
        "warmup_steps": 1,
        "answer_tokens": 2,
        "eval_every": 0,
        "compute_dtype": "float32",
    }
    seen = []
    for job in jobs:
        config, *flags = job.command()[3:]
        done = run_here(pocket, *flags, config=config.removeprefix("--config="), fields=tiny)
        assert done.returncode == 0, done.stderr[-3000:]
        seen.append({file: file.stat().st_mtime_ns for file in (pocket / "dataset").rglob("lengths-*.npz")})
    assert len(seen[0]) == 2 and seen[0] == seen[1]  # of train and test: measured by the first run, read by the second
    lines = [metrics(job.workdir) for job in jobs]
    assert [[(line["posts"], line["labels"]) for line in run] for run in lines] == [
        [(line["posts"], line["labels"]) for line in lines[0]] for _ in jobs
    ]
    gammas = {job.system: [line["gamma"] for line in run] for job, run in zip(jobs, lines, strict=True)}
    assert gammas[OURS] == pytest.approx([0.4, 0.4]) and gammas["dyncot-avg"][1] != pytest.approx(0.4)
    show(jobs)
    shown = capsys.readouterr().out
    assert "2 of 2 runs are complete" in shown and "(Table 4)" not in shown
    assert row_of(shown, "(Table 5)", "Dynamic CoT, γ 0.4") and row_of(shown, "(Table 5)", "Dynamic CoT, γ avg")


def test_tables_of_known_answers(tmp_path, dataset, capsys):
    jobs = jobs_of(2, tmp_path / "runs")
    for job in jobs:
        complete(job, right=job.system == OURS or (job.system, job.seed) == ("sft", 0))
    show(jobs)
    shown = capsys.readouterr().out
    assert f"{len(jobs)} of {len(jobs)} runs are complete" in shown and "missing" not in shown
    half, whole = ["50.00", "±", "70.71", "(0.0–100.0)"], ["100.00", "±", "0.00", "(100.0–100.0)"]
    facts = ["2", "7", "14", "3,500", "25.00%"]
    assert row_of(shown, "(Table 4)", "SFT") == [*half * 3, *facts, "29.89", "55.88", "8.79"]
    assert row_of(shown, "(Table 4)", "Dynamic CoT, γ 0.4") == [*whole * 3, *facts, "33.14", "57.14", "12.48"]
    assert row_of(shown, "(Table 5)", "Dynamic CoT, γ avg")[-3:] == ["32.22", "19.50", "13.26"]
    sft = row_of(shown, "Differences", "SFT")
    assert sft[:5] == ["all", "+50.00", "+0.00", "to", "+100.00"] and sft[-2:] == ["+0.0", "+100.0"]  # as seeds differ
    assert row_of(shown, "(Table 7)", "SFT") == [
        "2.00",
        "±",
        "1.41",
        "+100.00%",
        "50.00%",
        "0.00%",
        "0.00%",
        "50.00%",
        "1.89",
    ]


def test_a_table_waits_for_whole_seeds(tmp_path, dataset, capsys):
    """Here that of the strategies has two, that of γ one."""
    jobs = jobs_of(2, tmp_path / "runs")
    for job in jobs[:-1]:
        complete(job, right=True)
    show(jobs)
    shown = capsys.readouterr().out
    assert (
        f"{len(jobs) - 1} of {len(jobs)} runs are complete; revision of those shown: –\nmissing: dyncot-ema-seed1\n"
        in shown
    )
    assert row_of(shown, "(Table 4)", "SFT")[:3] == ["100.00", "±", "0.00"]
    assert row_of(shown, "(Table 5)", "Dynamic CoT, γ 0.3")[:2] == ["100.00", "(100.0–100.0)"]


def test_a_sweep_of_gamma_has_its_own_table_alone(tmp_path, dataset, capsys):
    jobs = jobs_of(1, tmp_path / "runs", gammas=True)
    for job in jobs:
        complete(job, right=True)
    show(jobs)
    shown = capsys.readouterr().out
    assert "(Table 5)" in shown and "(Table 4)" not in shown and "(Table 7)" not in shown


def test_a_first_seed_is_shown_as_far_as_it_is(tmp_path):
    jobs = [job for job in jobs_of(2, tmp_path / "runs") if job.system in BY_STRATEGY]
    for job in (*jobs[:2], jobs[-1]):
        complete(job, right=True)
    assert comparable(jobs) == jobs[:2]


def test_baselines_are_a_row_each_next_to_ours(tmp_path, dataset, capsys):
    jobs = jobs_of(2, tmp_path / "runs", baselines=True)
    assert {job.system for job in jobs} == set(BY_BASELINE) and len(jobs) == 7  # hidden states know no order of posts
    for job in jobs:
        if job.system in BASELINES:
            config = config_of(job)
            assert (config["task"], config["strategy"], config["seed"]) == ("baseline", job.system, job.seed)
    published = jobs_of(1, tmp_path, "model=qwen2_5_vl_3b,data=mmkp_v2,mesh=h100_1", baselines=True)
    assert {config_of(job)["data"]["path"] for job in published} == {"data/mmkp_v2"}
    for job in jobs:
        complete(job, right=job.system == OURS)
    show(jobs)
    shown = capsys.readouterr().out
    for name, cells in {"Dynamic CoT, γ 0.4": ["100.00", "±"], "cmkp": ["0.00", "±"], "embeddings": ["0.00"]}.items():
        assert row_of(shown, "Baselines", name)[: len(cells)] == cells
