"""Predictions of a model for posts: decoded and parsed.

    from mmkp_jax.inference.predictor import load_predictor

    predictor = load_predictor("runs/dyncot")  # a work directory, a Hugging Face folder or a hub id
    for prediction in predictor(["the eras tour was everything"], images=["stage.jpg"]):
        print(prediction.predicted)

Keep the predictor: it compiles for its first posts, and reuses that for others of similar sizes.
"""

import collections
import copy
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from transformers import PreTrainedTokenizerBase

from mmkp_jax.data.conversations import Turn, conversation_tokens
from mmkp_jax.data.examples import Recipe, measured_tree, tree_of
from mmkp_jax.data.forest import RowSize, Tree
from mmkp_jax.data.image_files import ImageError
from mmkp_jax.data.numbered import Numbered
from mmkp_jax.data.posts import Post, Record, Reject
from mmkp_jax.data.processor import Processor
from mmkp_jax.data.prompts import Mode, chain_opening, prompt_tokens
from mmkp_jax.data.shards import record_of
from mmkp_jax.decoding.generate import Completion, Generator
from mmkp_jax.decoding.prompts import Prompt, name_trunk, prompt_of
from mmkp_jax.decoding.sampling import GREEDY, Sampling
from mmkp_jax.decoding.stream import Compiling, Stream
from mmkp_jax.errors import InputError
from mmkp_jax.evaluation.outputs import merge_outputs
from mmkp_jax.evaluation.predictions import Prediction
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.inference.phrase_scores import score_phrases
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.models.sharding import make_mesh

READERS = min(8, os.cpu_count() or 1)
"""Threads that read posts and measure their prompts."""

SEAM = 8
"""Tokens by which a text next to what is around it may differ from both alone."""


class SkippedPost(NamedTuple):
    """A post that could not be given to the model, so that its prediction is empty."""

    id: str
    reason: str


class _PendingPost(NamedTuple):
    """A post whose completion is pending."""

    id: str
    keyphrases: tuple[str, ...]
    prompt: Prompt | None
    reason: str = ""
    """Why it has no prompt; empty if it has one."""


class Predictor:
    """A model that predicts; what it compiles for some posts is reused for others of similar sizes.

    Args:
        params: the parameters, as in the train state or from the loader. Decoding runs on their mesh.
        recipe: how the model's inputs were made in training.
        stop_tokens: the tokens that end a completion.
        batch_size: completions decoded at a time.
        answer_tokens: most tokens of a completion.
        dtype: the dtype that the model computes in.
        num_samples: completions for each post; without a temperature all would be the same.
        mode: whether answers must begin with a chain of thought (`think`), must not (`direct`), or may (`auto`).
    """

    def __init__(
        self,
        definition: Definition,
        params: Params,
        recipe: Recipe,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_tokens: Collection[int],
        batch_size: int,
        answer_tokens: int,
        dtype: jnp.dtype,
        sampling: Sampling = GREEDY,
        num_samples: int = 1,
        mode: Mode = "auto",
    ):
        self._mode, self.answer_tokens = mode, answer_tokens
        self._params, self._recipe, self._tokenizer, self._num_samples = params, recipe, tokenizer, num_samples
        opening = chain_opening(recipe.template)
        self._opening = len(opening)
        self._generator = Generator(
            definition,
            _mesh_of(params),
            slots=batch_size,
            answer_tokens=answer_tokens,
            stop_tokens=stop_tokens,
            dtype=dtype,
            sampling=sampling,
            opening=opening,
        )

    def with_params(self, params: Params) -> "Predictor":
        """A predictor with other parameters, sharded the same way; compiled programs are shared."""
        other = copy.copy(self)
        other._params = params
        return other

    def __call__(self, texts: Sequence[str], images: Sequence[str | Path | None] | None = None) -> list[Prediction]:
        """Predictions for posts with these texts and image files, in their order; their ids are "0", "1", and so on.

        Raises:
            InputError: an image cannot be used.
        """
        images = [None] * len(texts) if images is None else images
        posts = [read_post(str(n), text, image) for n, (text, image) in enumerate(zip(texts, images, strict=True))]
        return [prediction for _, prediction in sorted(self.predict(posts))]

    def predict(
        self,
        rows: Numbered[Record | Reject],
        skipped: Callable[[SkippedPost], None] = lambda _: None,
        state: Callable[[int, np.ndarray], None] = lambda *_: None,
        modes: Sequence[Sequence[Mode]] | None = None,
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (number, prediction) of every post, in the order in which their completions finish.

        Args:
            skipped: called with each post that could not be given to the model.
            state: called with each other post's number and its `state_D` from decoding.
            modes: of each post, with a prediction for each of them, whose prompt is prefilled once; None for the
                predictor's own.
        """
        modes = [[self._mode]] * len(rows) if modes is None else modes
        if self.answer_tokens <= self._opening and any("think" in each for each in modes):
            what = f"an answer of {self.answer_tokens} tokens does not hold the {self._opening} of <think> and a chain"
            raise InputError(what, "--mode=think", "allow more tokens (--max_tokens, config.answer_tokens)")
        with ThreadPoolExecutor(READERS) as pool:
            posts = list(pool.map(lambda number: self._pending_post(rows[number]), range(len(rows))))
        usable = [number for number, post in enumerate(posts) if post.prompt is not None]
        asked = [(number, mode) for number in usable for mode in modes[number]]
        prompts = [posts[number].prompt._replace(mode=mode) for number, mode in asked]
        lost: dict[bytes, str] = {}  # why a trunk is not available

        def without_answer(number: int, mode: Mode) -> tuple[int, Prediction]:
            post = posts[number]
            if mode == modes[number][0]:  # once for each post
                why = lost.get(post.prompt.trunk, "its image can no longer be read") if post.prompt else post.reason
                skipped(SkippedPost(post.id, why))
            return number, Prediction(post.id, list(post.keyphrases), [], "", "broken", 0, mode=mode)

        def load(which: int) -> Tree | None:
            row, trunk = rows[asked[which][0]], prompts[which].trunk
            try:
                if isinstance(row, Record):
                    return tree_of(row, self._recipe, ())
                lost[trunk] = row.reason
            except ImageError as error:
                lost[trunk] = error.reason
            return None

        for number, post in enumerate(posts):
            if post.prompt is None:
                yield from (without_answer(number, mode) for mode in modes[number])
        answers: dict[int, dict[int, Completion]] = collections.defaultdict(dict)
        for each in self._generator(self._params, prompts, load, self._num_samples):
            (number, mode), found = asked[each.prompt], answers[each.prompt]
            found[each.sample] = each
            if len(found) == self._num_samples:
                drawn = [completion for _, completion in sorted(answers.pop(each.prompt).items())]
                if each.tokens is None:
                    yield without_answer(number, mode)
                else:
                    state(number, each.state_D)
                    yield number, self._prediction(posts[number]._replace(prompt=prompts[each.prompt]), drawn)

    @property
    def processor(self) -> Processor:
        """How the model takes images."""
        return self._recipe.processor

    def prepare(
        self, record: Record, *, mode: Mode | None = None, most_tokens: int | None = None, turns: Sequence[Turn] = ()
    ) -> tuple[Prompt, Tree]:
        """A post as `stream` takes it, its image decoded.

        Args:
            mode: in place of the predictor's own.
            most_tokens: of the completion, if fewer than the predictor's.
            turns: a conversation, which takes the place of the prompt of the post's text.

        Raises:
            ImageError: the image cannot be used.
            InputError: the chat template does not write the conversation.
        """
        tree = tree_of(record, self._recipe, ())
        if turns:
            image = self.processor.placeholder(tree.layouts[0]) if tree.layouts else None
            prompt = conversation_tokens(turns, image, self._recipe.template, self._tokenizer)
            tree = dataclasses.replace(tree, prompt=prompt)
        prompt = self._prompt_of(record, tree)._replace(mode=mode or self._mode, most_tokens=most_tokens)
        return prompt, tree

    def prediction(self, prompt: Prompt, completion: Completion) -> Prediction:
        """What a completion from `stream` predicts for the prompt of a post, whose own keyphrases are not known."""
        return self._prediction(_PendingPost(prompt.name, (), prompt), [completion])

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens of a completion as text, special tokens included."""
        return self._decode(tokens)

    def stream(self, compiling: Compiling = lambda _: None, *, room: int = 0) -> Stream:
        """Slots for posts that come at any time, with room for the longest text and the largest image.

        Args:
            compiling: called before programs for a size of prompts are compiled.
            room: the least tokens of a prompt that there is room for; conversations may need more than posts.
        """
        recipe, largest = self._recipe, self.processor.largest()
        image = self.processor.placeholder(largest) if self.processor.slots else None
        options = dict(max_text_tokens=recipe.max_text_tokens, zero_shot=recipe.zero_shot)
        around = prompt_tokens("", image, recipe.template, **options)
        tokens = max(len(around) + recipe.max_text_tokens + SEAM, room)
        images = dict(zip(self.processor.slots, largest.slots, strict=True))
        size = RowSize(tokens=tokens, labels=0, examples=1, images=images)
        return Stream(self._generator, self._params, self.processor, size, compiling)

    def _pending_post(self, row: Record | Reject) -> _PendingPost:
        if isinstance(row, Reject):
            return _PendingPost(row.id, row.post.keyphrases if row.post else (), None, row.reason)
        return _PendingPost(row.id, row.keyphrases, self._prompt_of(row, measured_tree(row, self._recipe)))

    def _prompt_of(self, record: Record, tree: Tree) -> Prompt:
        images = [record.image] if tree.layouts else []
        return prompt_of(record.id, tree, self.processor)._replace(trunk=name_trunk(tree.prompt, images))

    def _prediction(self, post: _PendingPost, drawn: Sequence[Completion]) -> Prediction:
        outputs, first = [self._decode(each.tokens) for each in drawn], drawn[0]
        predicted, form = merge_outputs(outputs)
        found = Prediction(post.id, list(post.keyphrases), predicted, outputs[0], form, len(first.tokens))
        think = None if first.think is None else float(f"{first.think:.4g}")
        found = found._replace(think=think, mode=post.prompt.mode)
        if len(outputs) > 1:
            return found._replace(outputs=tuple(outputs))
        scores = score_phrases(predicted, outputs[0], first.tokens, first.logprobs, self._decode)
        return found._replace(scores=scores)

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)


def load_predictor(
    model: str | Path,
    *,
    adapter: str = "",
    zero_shot: bool = False,
    batch_size: int | None = None,
    answer_tokens: int | None = None,
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    mode: Mode = "auto",
) -> Predictor:
    """Loads a model to predict with, on all devices.

    Args:
        model: a Hugging Face folder, a hub id, or a run's work directory, `DIR`, `DIR@STEP` or `DIR@best`.
        adapter: folder of a PEFT adapter of a folder's model; empty for none.
        zero_shot: whether the prompt describes the output's format, for a model that has not learnt it.
        mode: as for `Predictor`.
        batch_size, answer_tokens: as for `Predictor`; None for the run's, or the defaults of `runtime.fields`.

    Raises:
        InputError: there is no such model or checkpoint, or it cannot be used.
    """
    loaded = load_model(str(model), adapter=adapter, zero_shot=zero_shot)
    return Predictor(
        loaded.definition,
        loaded.params,
        loaded.recipe,
        loaded.tokenizer,
        stop_tokens=loaded.stop_tokens,
        batch_size=batch_size or loaded.batch_size,
        answer_tokens=answer_tokens or loaded.answer_tokens,
        dtype=loaded.dtype,
        sampling=sampling,
        num_samples=num_samples,
        mode=mode,
    )


def read_post(post_id: str, text: str, image: str | Path | None) -> Record:
    """A post made of its text and its image file.

    Raises:
        InputError: the image cannot be used.
    """
    if image is None:
        return Record(post_id, text, b"", 0, 0, (), None)
    file = Path(image)
    row = record_of(Post(post_id, text, file.name, ()), file.parent)
    if isinstance(row, Reject):
        raise InputError(row.reason, str(file), "give another image, or repair this one")
    return row


def _mesh_of(params: Params) -> Mesh:
    """The mesh of the parameters; a mesh of one device if they are on a single device."""
    sharding = jax.tree.leaves(params)[0].sharding
    return sharding.mesh if isinstance(sharding, NamedSharding) else make_mesh({}, list(sharding.device_set))
