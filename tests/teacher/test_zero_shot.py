import pytest

from mmkp_jax.data.posts import Record, Reject
from mmkp_jax.errors import InputError
from mmkp_jax.teacher.client import Endpoint, Limits
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.zero_shot import predict_through_endpoint
from tests.fake_endpoint import MODEL, FakeEndpoint


def rows(count):
    return [Record(f"p{n}", f"text {n}", b"", 0, 0, ("snow",), None) for n in range(count)]


def predictions(server, folder, rows, told=lambda post, reason: None, **limits):
    with Store(folder / "s") as store:
        endpoint = Endpoint(server.base_url, MODEL, {"max_tokens": 20, "temperature": 0})
        limits = Limits(**{"attempts": 2, "backoff": 0.01} | limits)
        return list(predict_through_endpoint(rows, endpoint, store, limits=limits, unfed=told))


def test_every_post_gets_a_prediction_in_order(tmp_path):
    def fault(said, attempt):
        return "cut" if "text 2\n" in said else None

    told = {}
    posts = [*rows(4), Reject("bad", "f", 1, "its image is damaged", "mend it")]
    with FakeEndpoint(lambda body: "Snow; winter", fault) as server:
        found = predictions(server, tmp_path, posts, told.__setitem__)
        assert len(server.calls) == 4
        assert predictions(server, tmp_path, posts) == found and len(server.calls) == 4
        assert (
            '"Post text": text 0\n' in server.calls[0].said
            and "Answer with the keyphrases only" in server.calls[0].said
        )
    assert [each.id for each in found] == ["p0", "p1", "p2", "p3", "bad"]
    assert found[0] == ("p0", ["snow"], ["snow", "winter"], "Snow; winter", "direct", 2)
    assert found[2].predicted == found[4].predicted == []
    assert set(told) == {"p2", "bad"} and "cut off" in told["p2"] and "damaged" in told["bad"]


def test_a_post_that_may_yet_be_answered_is_not_called_empty(tmp_path):
    def fault(said, attempt):
        return "500" if "text 1\n" in said and attempt < 3 else None

    with FakeEndpoint(fault=fault) as server:
        with pytest.raises(InputError, match=r"1 of 3 posts have no answer yet .*500"):
            predictions(server, tmp_path, rows(3))
        assert len(predictions(server, tmp_path, rows(3))) == 3 and max(server.answered.values()) == 1
