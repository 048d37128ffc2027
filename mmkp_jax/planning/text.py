"""A plan as text: a page for one topology, a table row for each of several."""

import math
from collections.abc import Sequence

from mmkp_jax.data.forest import RowSize
from mmkp_jax.models.lora import NF4
from mmkp_jax.planning.compiling import Compiled, CompileOutcome, NotCompiled
from mmkp_jax.planning.estimate import StepEstimate, saved_activations, slots_flops
from mmkp_jax.planning.search import Change, fits
from mmkp_jax.planning.topologies import GPU_SHARE, Topology
from mmkp_jax.planning.workload import Workload

GB = 1e9


def page(
    workload: Workload,
    topology: Topology,
    outcome: CompileOutcome,
    found: StepEstimate | None,
    *,
    largest: RowSize | None,
    change: Change | None,
    price: float | None,
) -> str:
    """The full report for one topology.

    Args:
        largest: the largest row that fits, if the config's fits.
        change: what fits, if the config does not.
        price: dollars a chip-hour.
    """
    parts = [_head(workload, topology, outcome), _fit(workload, topology, outcome, largest, change)]
    parts.append(_memory(workload, outcome))
    if found:
        parts += [_flops(workload, found), _sent(found, topology)]
        parts += [_time(found, topology, price)] if topology.chip.flops else []
    return "\n\n".join(parts)


def line(
    name: str, topology: Topology, outcome: CompileOutcome, found: StepEstimate | None, price: float | None
) -> dict[str, str]:
    """The cells of a table's row, by column heading."""
    train = outcome.programs["train"]
    cells = {"topology": topology.name, "model": name, "chips": f"{topology.chips}"}
    if isinstance(train, NotCompiled) or found is None:
        return {**cells, "fits": f"no: {train.reason}" if isinstance(train, NotCompiled) else "no"}
    host, moved = (f" + {outcome.in_host / GB:.2f} in the host", " + transfer") if outcome.in_host else ("", "")
    cells |= {
        "fits": "yes" if fits(outcome, topology) else "no",
        "GB a chip": f"{train.bytes / GB:.1f} of {topology.chip.memory / GB:.1f}",
        "state": f"{sum(outcome.state.values()) / GB:.2f}{host}",
        "temporaries": f"{train.temporaries / GB:.2f}",
        "GB sent a chip": f"{sum(each.bytes for each in found.collectives) / GB:.1f}",
        "s/step": _range(found.best, found.worst) + moved,
        "posts/s": _range(found.posts / found.worst, found.posts / found.best),
        "hours": _range(found.hours(found.best), found.hours(found.worst)),
    }
    if price is not None:
        cells["cost"] = _dollars(found, price)
    return {**cells, "compiled in": f"{train.seconds:.0f} s"}


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """A Markdown table of rows given by column heading."""
    heads = list(dict.fromkeys(head for row in rows for head in row))
    lines = [heads, ["---"] * len(heads), *([row.get(head, "–") for head in heads] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _head(workload: Workload, topology: Topology, outcome: CompileOutcome) -> str:
    config, mesh = workload.config, outcome.mesh
    used = math.prod(mesh.values())
    slices = f" in {topology.slices} {_parts(topology)}" if topology.slices > 1 else ""
    seconds = ", ".join(
        f"{name} in {each.seconds:.0f} s{' without the Triton products that a GPU would use' * each.fallback}"
        for name, each in outcome.programs.items()
        if isinstance(each, Compiled)
    )
    row = ", ".join(f"{n:,} {name}" for name, n in workload.row.slots().items())
    return "\n".join(
        [
            f"{config.model.path} on {topology.name}: {used} of {topology.chips} chips{slices}, "
            f"mesh {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}",
            f"a step: {config.global_batch_size} rows in {config.accumulation_steps} micro-batches; a row: {row}",
            f"rows hold {workload.load.posts:.2f} posts each ({workload.load.source})",
            workload.updates,
            f"compiled ahead of time: {seconds or 'nothing'}",
        ]
    )


def _fit(
    workload: Workload, topology: Topology, outcome: CompileOutcome, largest: RowSize | None, change: Change | None
) -> str:
    room = topology.chip.memory
    lines = []
    if fits(outcome, topology):
        most = max(map(outcome.needs, outcome.programs))
        of = f" of {room / GB:.2f}" if math.isfinite(room) else ""
        lines.append(f"FITS: {most / GB:.2f}{of} GB a chip")
        if topology.chip.platform == "gpu" and most > 0.75 * room / GPU_SHARE:
            lines.append(
                f"  with XLA_PYTHON_CLIENT_MEM_FRACTION={GPU_SHARE}: by default JAX takes 0.75 of a GPU's memory"
            )
    else:
        lines.append(f"DOES NOT FIT into {room / GB:.2f} GB a chip")
        for name, each in outcome.programs.items():
            if isinstance(each, NotCompiled):
                lines.append(f"  {name}: {each.reason}")
            elif outcome.needs(name) > room:
                lines.append(f"  {name}: takes {outcome.needs(name) / GB:.2f} GB")
        kept = sum(outcome.state.values()) + outcome.state["trainable"]
        lines.append(f"  state and gradients alone: {kept / GB:.2f} GB a chip")
        if change:
            lines.append(f"what fits ({change.bytes / GB:.2f} GB a chip): {' '.join(change.flags)}")
        else:
            lines.append(
                "neither remat, micro-batches, another mesh, moments in bfloat16 or (on a TPU) in the host's memory, "
                "nor rows of half the size fit: take more chips"
            )
    if largest:
        times = largest.tokens / workload.row.tokens
        size = ", ".join(f"{n:,} {kind}" for kind, n in {"tokens": largest.tokens, **largest.images}.items())
        lines.append(f"the largest row that fits: {size} ({times:g} times the config's)")
    return "\n".join(lines)


def _memory(workload: Workload, outcome: CompileOutcome) -> str:
    state, config = outcome.state, workload.config
    programs = {name: each for name, each in outcome.programs.items() if isinstance(each, Compiled)}
    trains = {name: name == "train" for name in programs}
    kept = saved_activations(workload, outcome) if config.remat else 0.0
    kinds: dict[str, dict[str, float]] = {name: {} for name in programs}
    for name, each in programs.items():
        given = state["trainable"] + state["frozen"] + state["optimizer"] * trains[name]
        waiting = (state["trainable"] + kept) * trains[name]
        kinds[name] = {
            "parameters that train (float32)": state["trainable"],
            f"parameters that do not ({_frozen_dtype(workload)})": state["frozen"],
            f"optimizer's moments ({config.moments_dtype})": state["optimizer"],
            "rows; or cache, prompts, decoding weights": max(each.arguments - given, 0.0),
            "gradients (float32)": state["trainable"] * trains[name],
            "saved by layers, for the backward pass": kept * trains[name],
            "other temporaries": max(each.temporaries - waiting, 0.0),
            "results and program": each.results + each.code,
            "total": outcome.needs(name),
        }
    lines = [f"{'memory a chip, GB':<44}" + "".join(f"{name:>10}" for name in programs)]
    for kind in next(iter(kinds.values()), {}):
        cells = (kinds[name][kind] for name in programs)
        lines.append(f"  {kind:<42}" + "".join(f"{n / GB:>10.3f}" if n else f"{'–':>10}" for n in cells))
    if outcome.in_host:
        moved = f"{outcome.in_host / GB:.3f} GB a chip, which every step moves there and back; not in the times below"
        lines.append(f"in the host's memory: moments, {moved}")
    return "\n".join(lines)


def _frozen_dtype(workload: Workload) -> str:
    config = workload.config
    in_4_bits = workload.definition.lora is not None and workload.definition.lora.base == NF4
    return f"4 bits, {config.frozen_dtype}" if in_4_bits else config.frozen_dtype


def _flops(workload: Workload, found: StepEstimate) -> str:
    lines = [f"{'TFLOP a step, by what the posts need':<44}{'forward':>10}{'backward':>10}"]
    for part, each in found.flops.items():
        lines.append(f"  {part:<42}{each.forward / 1e12:>10.2f}{each.backward / 1e12:>10.2f}")
    needed = sum(each.total for each in found.flops.values())
    program = found.counts.flops * found.chips
    kernels = f", and {found.counts.kernels} calls of kernels a chip, not counted" if found.counts.kernels else ""
    lines += [
        f"  total {needed / 1e12:.2f} (what MFU counts; frozen parts forward only, no padding)",
        f"  the compiled program's products: {program / 1e12:.2f}{kernels}",
        f"  all slots, with recomputation, by formula: {slots_flops(workload) / 1e12:.2f}",
    ]
    return "\n".join(lines)


def _sent(found: StepEstimate, topology: Topology) -> str:
    if not found.collectives:
        return "collectives: none"
    between = topology.slices > 1
    head = f"{'collectives a step':<34}{'times':>10}{'GB a chip':>12}"
    lines = [head + (f"{'between ' + _parts(topology):>18}" if between else "")]
    for each in found.collectives:
        cells = f"  {each.kind:<32}{each.times:>10,.0f}{each.bytes / GB:>12.3f}"
        lines.append(cells + (f"{each.between_slices / GB:>18.3f}" if between else ""))
    return "\n".join(lines)


def _time(found: StepEstimate, topology: Topology, price: float | None) -> str:
    chip = topology.chip
    sent = sum(each.bytes for each in found.collectives)
    between = sum(each.between_slices for each in found.collectives)
    rows = [
        ("products", found.products, f"{found.computed / 1e12:,.1f} TFLOP a chip at {chip.flops / 1e12:,.0f} a second"),
        ("memory", found.memory, f"{found.counts.bytes / GB:,.1f} GB a chip at {chip.bandwidth / GB:,.0f} a second"),
        ("links", found.links, f"{(sent - between) / GB:,.1f} GB a chip at {chip.link / GB:,.0f} a second"),
    ]
    if between:
        rows.append(("network", found.network, f"{between / GB:,.1f} GB a chip at {chip.network / GB:,.1f} a second"))
    hours = _range(found.hours(found.best), found.hours(found.worst))
    cost = "" if price is None else f", {_dollars(found, price)} at ${price:g} a chip-hour"
    return "\n".join(
        [
            "a step, at published rates",
            *(f"  {name:<10} {seconds:8.3f} s   {what}" for name, seconds, what in rows),
            f"  {_range(found.best, found.worst)} s: all at once, or one after the other; MFU at most {found.mfu:.0%}",
            f"  {_range(found.posts / found.worst, found.posts / found.best)} posts a second, "
            f"{found.posts:,.0f} a step",
            f"the experiment: {found.steps:,} steps, {hours} hours (without start-up and evaluation){cost}",
        ]
    )


def _parts(topology: Topology) -> str:
    """The units that the network connects."""
    return "slices" if topology.chip.platform == "tpu" else "machines"


def _dollars(found: StepEstimate, price: float) -> str:
    low, high = (found.hours(seconds) * found.chips * price for seconds in (found.best, found.worst))
    return f"${low:,.2f}–{high:,.2f}"


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"{_short(low)}–{_short(high)}"


def _short(n: float) -> str:
    return f"{n:,.0f}" if n >= 100 else f"{n:.3g}"
