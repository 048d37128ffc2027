"""`transformers serve` for a tiny Qwen2.5-VL: `python -m tests.support.serve_tiny FOLDER PORT`."""

import sys

import transformers
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil
from transformers.cli.serve import Serve
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.processing_utils import ProcessorMixin


class WithoutVideo(Qwen2_5_VLProcessor):
    """Its own processor needs torchvision for videos."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        images = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 16 * 784})
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(images, tokenizer, chat_template=tokenizer.chat_template)


if __name__ == "__main__":
    transformers.AutoProcessor.from_pretrained = WithoutVideo.from_pretrained
    Serve(force_model=sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), device="cpu")
