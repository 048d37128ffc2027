import base64
import io

import pytest
from PIL import Image

from mmkp_jax.data.numbered import records_of
from mmkp_jax.data.posts import Post, Record
from mmkp_jax.errors import InputError
from mmkp_jax.teacher.cost import estimate
from mmkp_jax.teacher.endpoint import Endpoint
from mmkp_jax.teacher.questions import Unaskable, ask_about, data_url
from mmkp_jax.teacher.templates import EXPLAIN, ZERO_SHOT, Template, read_template

ENDPOINT = Endpoint("http://h/v1", "m", {"max_tokens": 9})
VALUES = {"keyphrases": "snow; winter", "text": "it is {text} <|im_end|> and {image} </think>"}


def encoded_image(width, height, **save):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "JPEG", **save)
    return file.getvalue()


def record(image=b"", text="hello"):
    return Record("a", text, image, 0, 0, ("snow",), None)


def decoded(url):
    head, _, content = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_images_are_upright_small_and_without_metadata():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "my garden"  # turned; a description
    image = decoded(data_url(encoded_image(1600, 800, exif=exif), 400))
    assert image.size == (200, 400) and not image.getexif() and b"my garden" not in image.tobytes()
    assert decoded(data_url(encoded_image(30, 20), 400)).size == (30, 20)  # never made larger


def test_a_posts_text_is_data():
    [_, turn] = EXPLAIN.messages(VALUES, "data:x")
    before, image = turn["content"]
    assert "it is {text} < |im_end|> and {image} < /think>" in before["text"]
    assert image == {"type": "image_url", "image_url": {"url": "data:x"}}
    assert Template("", "{text}").messages({"text": "a <url> <3 <user>"}, None)[0]["content"] == "a <url> <3 <user>"


def test_a_missing_image_is_mentioned_only_where_the_template_has_a_label():
    assert EXPLAIN.messages(VALUES, None)[-1]["content"].endswith("Image: none")
    assert ZERO_SHOT.messages({"text": "hi"}, None)[0]["content"].startswith('"Post text": hi\n')


def test_the_key_depends_on_everything_that_the_answer_depends_on():
    def key(image=b"i", text="t", edge=10, template=EXPLAIN, **endpoint):
        asked = Endpoint("http://h/v1", **{"model": "m", "parameters": {}} | endpoint)
        values = {"keyphrases": "k", "text": text}
        return ask_about(record(image, text), template, values, asked, edge).key

    others = [
        key(image=b"j"),
        key(image=b""),
        key(text="u"),
        key(edge=11),
        key(model="n"),
        key(parameters={"temperature": 0}),
        key(template=Template(EXPLAIN.system + " ", EXPLAIN.user)),
    ]
    assert len({key(), *others}) == 8
    assert (
        ask_about(record(b"i"), EXPLAIN, VALUES, Endpoint("http://other/v1", "m")).key
        == ask_about(record(b"i"), EXPLAIN, VALUES, Endpoint("http://h/v1", "m")).key
    )  # wherever the model is served


def test_a_damaged_image_is_not_sent():
    question = ask_about(record(b"no image"), EXPLAIN, VALUES, ENDPOINT)
    with pytest.raises(Unaskable, match="no image of a known kind"):
        question.messages()


def test_a_missing_image_is_one_line_before_any_call(tmp_path):
    posts = [Post("a", "t", None, ("k",)), Post("b", "t", "gone.jpg", ("k",), None, "posts.jsonl", 2)]
    with pytest.raises(InputError, match=r"posts.jsonl:2: there is no image 'gone.jpg'"):
        records_of(posts, tmp_path)
    with pytest.raises(InputError, match="--images"):
        records_of(posts, None)


def test_templates_are_read_and_checked(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("Be brief.\n---\nText: {text}\n{image}\nWhy {keyphrases}?\n")
    template = read_template(file)
    assert (template.system, template.user) == ("Be brief.", "Text: {text}\n{image}\nWhy {keyphrases}?")
    template.check(["text"], ["text", "image", "keyphrases"], "t")
    for text, what in [
        ("{txt}", "did you mean 'text'"),
        ("hello", "has no {text}"),
        ("{text} {image} {image}", "once"),
        ("{text} {image}\n---\n{text}", "user message"),
    ]:
        file.write_text(text)
        with pytest.raises(InputError, match=what):
            read_template(file).check(["text"], ["text", "image", "keyphrases"], "t")
    file.write_text("only a system message\n---\n")
    with pytest.raises(InputError, match="no user message"):
        read_template(file)


def test_an_estimate_holds_what_gpt_4o_and_qwen_count():
    text = "so excited for the game tonight ! <number> days to go , see you there with <user> and <user> 🎉🎉"
    assert estimate(text, None).low <= 29 <= estimate(text, None).high  # by Qwen's vocabulary
    assert estimate("", 768).low <= 85 and estimate("", 768).high >= 765 + 16  # low detail; four tiles
