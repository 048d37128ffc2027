"""The other side: a plain trainer in PyTorch and transformers, as a user of Qwen2.5-VL would write it, tuned.

SDPA, fused AdamW, float32 weights (autocast for bfloat16), the tower frozen, the head at label positions only, batches
made before they are timed, padded ones of posts of like length. Under Dynamic CoT the image's features are computed
once for both passes, and the second pass either takes all posts (the first one without gradient, as in the paper) or
only those whose choice is the CoT target.
"""

import functools
import os
import time
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.trainers.job import STILL, Job
from benchmarks.trainers.meter import Meter
from mmkp_jax.families.qwen2_5_vl.processor import CLIP_MEAN, CLIP_STD

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Way(NamedTuple):
    """A way to train."""

    posts: int
    """Posts of a batch: one padded batch, or one packed row."""
    packed: bool = False
    each: bool = False
    """Whether every batch is an optimizer step, as in the paper; otherwise all posts are one."""
    all_again: bool = False
    """Whether Dynamic CoT's second pass takes all posts, after a first one without gradient."""

    @property
    def name(self) -> str:
        """The way in words."""
        if self.each:
            return "batch size 1"
        words = f"batches of {self.posts}" + ", packed" * self.packed
        return words + ", second pass over all" * self.all_again


class Batch(NamedTuple):
    """Inputs of the model, and the labels of its posts."""

    inputs: dict[str, torch.Tensor | None]
    row: torch.Tensor
    slot: torch.Tensor
    label: torch.Tensor
    post: torch.Tensor
    count: torch.Tensor


class Theirs:
    """Their trainer. Methods take and return plain values, as another process calls them."""

    def __init__(self, folder: str, job: Job):
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
        self.job, self.device = job, "cuda" if torch.cuda.is_available() else "cpu"
        self.gamma, self.trees, self.token = 0.0, job.trees(), job.config.image_token_id
        self.sequences: dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]] = {}
        load = functools.partial(Qwen2_5_VLForConditionalGeneration.from_pretrained, attn_implementation="sdpa")
        self.model = load(folder, dtype=torch.float32).to(self.device).train()
        for part in (self.model.model.visual.patch_embed, self.model.model.visual.blocks):
            part.requires_grad_(False).to(DTYPES[job.dtype])
        trained = [each for each in self.model.parameters() if each.requires_grad]
        groups = [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": 0.01},
            {"params": [each for each in trained if each.ndim == 1], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(groups, lr=STILL, betas=(0.9, 0.95), eps=1e-8, fused=True)
        self.batch = functools.cache(self._collate)
        self.images = functools.cache(self._images)
        self.meter = Meter()

    def about(self) -> dict[str, Any]:
        """Versions, the device and numbers of parameters."""
        sizes = [(each.numel(), each.requires_grad) for each in self.model.parameters()]
        return {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": self._device_name(),
            "trainable": sum(n for n, trains in sizes if trains),
            "frozen": sum(n for n, trains in sizes if not trains),
        }

    def variants(self, strategy: str) -> list[str]:
        """Names of the ways to train."""
        return list(self._ways(strategy))

    def set_gamma(self, gamma: float) -> None:
        """Sets the threshold of Dynamic CoT."""
        self.gamma = gamma

    def run(self, strategy: str, variant: str) -> dict[str, Any]:
        """Trains on all posts once: seconds, memory, and each post's losses; `failed` is why that was not possible."""
        way = self._ways(strategy)[variant]
        groups, losses = self._groups(way), []
        for posts in groups:
            self.images(posts)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            with self.meter as meter:
                for posts in groups:
                    losses.append(self._backward(strategy, way, posts, len(posts) if way.each else len(self.trees)))
                    if way.each:
                        self._update()
                if not way.each:
                    self._update()
                self._wait()
        except torch.cuda.OutOfMemoryError:
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            return {"failed": "out of memory"}
        memory = {"memory": torch.cuda.max_memory_allocated()} if self.device == "cuda" else {}
        return meter.taken | memory | self._by_post(groups, losses)

    def gradients(self, strategy: str, variant: str, out: str) -> dict[str, Any]:
        """Each post's losses, and the gradient of their mean written."""
        way = self._ways(strategy)[variant]
        groups = self._groups(way)
        losses = [self._backward(strategy, way, posts, len(self.trees)) for posts in groups]
        found = {name: each.grad for name, each in self.model.named_parameters() if each.grad is not None}
        self.model.save_pretrained(out, state_dict=found)  # under the published names
        self.optimizer.zero_grad(set_to_none=True)
        return self._by_post(groups, losses)

    def product_peak(self) -> float:
        """FLOP/s of a large matrix product in the job's dtype: the best of five."""
        n = 2048 if self.device == "cpu" else 8192
        a = torch.ones(n, n, dtype=DTYPES[self.job.dtype], device=self.device)
        taken = []
        for _ in range(6):
            start = time.perf_counter()
            torch.mm(a, a)
            self._wait()
            taken.append(time.perf_counter() - start)
        return 2 * n**3 / min(taken[1:])

    def _ways(self, strategy: str) -> dict[str, Way]:
        sizes = [n for n in self.job.sizes.batches if n <= len(self.trees)]
        ways = [Way(1, each=True), *map(Way, sizes), *(Way(n, packed=True) for n in sizes if n > 1)]
        if strategy == "dyncot":
            ways += [Way(n, all_again=True) for n in sizes if n > 1]
        return {way.name: way for way in ways}

    def _groups(self, way: Way) -> list[tuple[int, ...]]:
        """Batches of posts of like length."""
        order = sorted(range(len(self.trees)), key=lambda i: len(self.trees[i].prompt))
        return [tuple(order[start : start + way.posts]) for start in range(0, len(order), way.posts)]

    def _by_post(self, groups: list[tuple[int, ...]], losses: list[tuple[torch.Tensor, list[bool]]]) -> dict[str, Any]:
        found = {}
        for posts, (loss, on_cot) in zip(groups, losses, strict=True):
            found |= dict(zip(posts, zip(loss.tolist(), on_cot, strict=True), strict=True))
        loss, on_cot = zip(*(found[i] for i in range(len(self.trees))), strict=True)
        return {"losses": loss, "on_cot": on_cot}

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _backward(self, strategy: str, way: Way, posts: tuple[int, ...], mean_over: int) -> tuple[torch.Tensor, list]:
        """Adds the gradient of the posts' loss; each post's loss, and whether it is on its CoT target."""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.job.dtype == "bfloat16"):
            features = self.model.model.get_image_features(*self.images(posts)).pooler_output
            if strategy == "dyncot":
                loss, on_cot = self._dynamic(way, posts, features)
            else:
                loss = self._losses(self.batch(posts, (strategy,) * len(posts), way.packed), features)
                on_cot = [strategy == "cot"] * len(posts)
        (loss.sum() / mean_over).backward()
        return loss.detach(), on_cot

    def _dynamic(self, way: Way, posts: tuple[int, ...], features: tuple) -> tuple[torch.Tensor, list[bool]]:
        direct = self.batch(posts, ("sft",) * len(posts), way.packed)
        if way.all_again:
            with torch.no_grad():
                first = self._losses(direct, features)
            on_cot = (first < self.gamma).tolist()
            chosen = tuple("cot" if cot else "sft" for cot in on_cot)
            return self._losses(self.batch(posts, chosen, way.packed), features), on_cot
        loss = self._losses(direct, features)
        on_cot = (loss.detach() < self.gamma).tolist()
        moved = [i for i, cot in enumerate(on_cot) if cot]
        if not moved:
            return loss, on_cot
        again = self.batch(tuple(posts[i] for i in moved), ("cot",) * len(moved), way.packed)
        chosen = self._losses(again, tuple(features[i] for i in moved))
        if len(moved) == len(posts):  # nothing goes back through the first pass
            return chosen, on_cot
        return loss.index_copy(0, torch.tensor(moved, device=self.device), chosen), on_cot

    def _losses(self, batch: Batch, features: tuple) -> torch.Tensor:
        """Each post's mean loss over its labels."""
        images = {"image": BaseModelOutputWithPooling(pooler_output=features)}
        hidden = self.model.model(**batch.inputs, mm_encoder_outputs=images, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden[batch.row, batch.slot]).float()
        nll = torch.nn.functional.cross_entropy(logits, batch.label, reduction="none")
        return torch.zeros_like(batch.count).index_add(0, batch.post, nll) / batch.count

    def _images(self, posts: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised pixels of both frames, as transformers' processor gives them, and the grids."""
        values = np.concatenate([self.trees[i].pixels[0] for i in posts]).reshape(-1, 3, 1, 196)
        mean, std = (np.asarray(each, np.float32).reshape(3, 1, 1) for each in (CLIP_MEAN, CLIP_STD))
        pixels = ((values.astype(np.float32) / 255 - mean) / std).repeat(2, axis=2).reshape(len(values), -1)
        grids = torch.tensor([(1, *self.trees[i].layouts[0].shape) for i in posts])
        return torch.from_numpy(pixels).to(self.device), grids.to(self.device)

    def _sequence(self, post: int, target: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens of the prompt and all but the target's last, [T], and M-RoPE positions [3, T]."""
        if (post, target) not in self.sequences:
            tree = self.trees[post]
            tokens = torch.from_numpy(np.concatenate([tree.prompt, getattr(tree, target)[:-1]]).astype(np.int64))
            position, _ = self.model.model.get_rope_index(
                tokens[None],
                (tokens[None] == self.token).int(),
                image_grid_thw=torch.tensor([(1, *tree.layouts[0].shape)]),
            )
            self.sequences[post, target] = tokens, position[:, 0]
        return self.sequences[post, target]

    def _collate(self, posts: tuple[int, ...], targets: tuple[str, ...], packed: bool) -> Batch:
        each = [self._sequence(*pair) for pair in zip(posts, targets, strict=True)]
        length = [len(tokens) for tokens, _ in each]
        if packed:
            start, row = np.cumsum([0, *length[:-1]]), [0] * len(posts)
            text = torch.cat([torch.arange(n) for n in length])[None]
            tokens = torch.cat([tokens for tokens, _ in each])[None]
            position = torch.cat([text[None], torch.cat([position for _, position in each], dim=1)[:, None]])
            mask = None
        else:
            start, row, most = [0] * len(posts), range(len(posts)), max(length)
            tokens = torch.stack([torch.nn.functional.pad(t, (0, most - len(t))) for t, _ in each])
            position = torch.stack([torch.nn.functional.pad(p, (0, most - p.shape[1])) for _, p in each], dim=1)
            mask = torch.tensor([[1] * n + [0] * (most - n) for n in length]) if min(length) < most else None
        labels = [getattr(self.trees[i], target) for i, target in zip(posts, targets, strict=True)]
        count = [len(label) for label in labels]
        first = [s + n - c for s, n, c in zip(start, length, count, strict=True)]
        slot = np.concatenate([np.arange(f, f + c) for f, c in zip(first, count, strict=True)])
        inputs = {"input_ids": tokens, "position_ids": position, "attention_mask": mask}
        return Batch(
            {name: None if value is None else value.to(self.device) for name, value in inputs.items()},
            self._put(np.repeat(row, count)),
            self._put(slot),
            self._put(np.concatenate(labels).astype(np.int64)),
            self._put(np.repeat(np.arange(len(posts)), count)),
            torch.tensor(count, dtype=torch.float32, device=self.device),
        )

    def _put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _device_name(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else f"{torch.get_num_threads()} threads"
