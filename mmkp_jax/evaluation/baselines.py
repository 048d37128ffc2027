"""Baselines without a model: the most frequent keyphrases, and those of the most similar training post.

Legend: `N` texts to predict for, `M` training posts, `V` words of the training posts.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import sparse

from mmkp_jax.evaluation.metric import PostLike

CHUNK = 256  # texts compared with all training posts at a time


def most_frequent(train_keyphrases_per_post: Iterable[Iterable[str]], k: int) -> list[str]:
    """The k most frequent training keyphrases, to predict for each post; ties go to the first one met."""
    count = Counter(each.strip().lower() for keyphrases in train_keyphrases_per_post for each in keyphrases)
    return [keyphrase for keyphrase, _ in count.most_common(k)]


def nearest_neighbour(train_posts: Sequence[PostLike], texts: Sequence[str]) -> list[list[str]]:
    """For each text, the keyphrases of the training post with the most similar text, by TF-IDF cosine over words.

    Ties go to the first post; a text that shares no word with any training post gets no prediction.
    """
    if not any(_words(post.text) for post in train_posts):
        return [[] for _ in texts]
    index = TextIndex([post.text for post in train_posts])
    predicted = []
    for start in range(0, len(texts), CHUNK):
        cosine_NM = index.cosine(texts[start : start + CHUNK])
        for best, cosine in zip(cosine_NM.argmax(axis=1), cosine_NM.max(axis=1), strict=True):
            predicted.append(list(train_posts[best].keyphrases) if cosine > 0 else [])
    return predicted


class TextIndex:
    """Texts of training posts, with at least one word in all, and the weights of their words.

    Args:
        texts: the texts of the training posts.
    """

    def __init__(self, texts: Sequence[str]):
        self._word_ids: dict[str, int] = {}
        for text in texts:
            for word in _words(text):
                self._word_ids.setdefault(word, len(self._word_ids))
        count_MV = _counts(texts, self._word_ids)
        posts_V = np.bincount(count_MV.indices, minlength=len(self._word_ids))  # how many posts have the word
        self._idf_V = np.log((1 + len(texts)) / (1 + posts_V)) + 1
        self._train_VM = _unit_rows(count_MV, self._idf_V).T.tocsr()

    def cosine(self, texts: Sequence[str]) -> np.ndarray:
        """TF-IDF cosine of each text with each training post, [N, M]; rounded, so that equal texts tie."""
        text_NV = _unit_rows(_counts(texts, self._word_ids), self._idf_V)
        return (text_NV @ self._train_VM).toarray().round(12)


def _words(text: str) -> list[str]:
    return text.lower().split()


def _counts(texts: Sequence[str], word_ids: dict[str, int]) -> sparse.csr_array:
    """`count_NV`: how often each known word occurs in each text."""
    known = [[word_ids[word] for word in _words(text) if word in word_ids] for text in texts]
    row = np.repeat(np.arange(len(texts)), [len(each) for each in known])
    column = np.array([word for each in known for word in each], np.int64)
    return sparse.csr_array((np.ones(len(column)), (row, column)), shape=(len(texts), len(word_ids)))


def _unit_rows(count_NV: sparse.csr_array, idf_V: np.ndarray) -> sparse.csr_array:
    """TF-IDF with rows of length 1; a row without words stays 0."""
    value_NV = count_NV.multiply(idf_V).tocsr()
    length_N = np.sqrt(value_NV.multiply(value_NV).sum(axis=1))
    return sparse.diags_array(1 / np.where(length_N > 0, length_N, 1)) @ value_NV
