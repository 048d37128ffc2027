"""The fields of a baseline (`task=baseline`): a list of its own, in the form of `runtime/fields.py`."""

from mmkp_jax.runtime.field_types import CONTENT, LENGTH, MAY_DIFFER, OURS, PAPER, Field, Need, Section
from mmkp_jax.runtime.needs import VALIDATED

TASKS = ("vlm", "baseline")
"""What a config is of: a vision-language model, or a baseline."""

STRATEGIES = ("cmkp", "one2seq", "embeddings")

TRAINED = Need("strategy", "strategy {} trains no encoder", only=("cmkp", "one2seq"))
CLASSIFIED = Need("strategy", "strategy {} has no such classifier", only=("cmkp",))
EMBEDDED = Need("strategy", "strategy {} reads no hidden states", only=("embeddings",))

MODEL_AND_DATA = (
    Field("task", "baseline", "which list of fields the config has", choices=("baseline",)),
    Field(
        *("strategy", "cmkp"),
        "CMKP's classifier and pointer-generator, the latter on texts alone, or hidden states of a frozen model",
        choices=STRATEGIES,
    ),
    Field(
        *("model.path", ""),
        "a Hugging Face folder or hub id, whose hidden states are read; empty: none",
        needs=(EMBEDDED,),
        resume=CONTENT,
    ),
    Field(
        *("make", ""),
        "a module whose `make()` creates model and data where they do not exist yet",
        resume=MAY_DIFFER,
    ),
    Field("data.path", "", "a prepared dataset", resume=CONTENT),
    Field(
        *("data.ocr", ""),
        "files of OCR words, a line a post, such as raw/{split}_ocr_final.txt; they follow the text",
        needs=(CLASSIFIED,),
    ),
    Field(
        *("data.attributes", ""),
        "files of five words about each image, such as raw/{split}_attribute_cleaned.txt",
        needs=(CLASSIFIED,),
    ),
    Field(
        *("data.image_features", ""),
        "a folder of {split}.npy and {split}.ids, features of the images, or of a model whose tower gives them",
        needs=(CLASSIFIED,),
    ),
    Field(
        *("data.train_keyphrases", ""),
        "a file of the keyphrases that count as seen, one a line",
        resume=CONTENT,
    ),
    Field("data.kinds", "", 'JSON Lines of {"needs": {keyphrase: kind}}: scores by kind too', resume=CONTENT),
    Field("seed", 0, "seed of parameters, dropout and the order of posts", low=0),
)

MODEL = (
    Field(
        *("fusion", "m3h"),
        "how images and attributes meet the text: multi-head (M3H-ATT) or alternating attention (CO-ATT)",
        choices=("m3h", "coatt"),
        needs=(CLASSIFIED,),
    ),
    Field(
        *("vocabulary", 45_006),
        "words at most, the most frequent of the training posts",
        low=10,
        source=PAPER,
        needs=(TRAINED,),
    ),
    Field("embedding_width", 200, "width of a word's vector", low=1, source=PAPER, needs=(TRAINED,)),
    Field("hidden_width", 150, "width of the encoder in one direction", low=1, source=PAPER, needs=(TRAINED,)),
    Field("dropout", 0.1, "share of numbers that are left out", low=0, below=1, source=PAPER, needs=(TRAINED,)),
    Field(
        *("text_words", 100),
        "words of a text, and of its OCR, that are read at most",
        low=1,
        source=OURS,
        needs=(TRAINED,),
    ),
    Field("keyphrase_words", 6, "words of a keyphrase at most", low=1, source=PAPER, needs=(TRAINED,)),
)

TRAINING = (
    Field(
        *("generation_weight", 1.0),
        "weight of generation against classification (eq. 1)",
        low=0,
        source=OURS,
        needs=(CLASSIFIED,),
    ),
    Field(
        *("learning_rate", 1e-3),
        "of Adam; halved when the valid loss does not fall",
        low=0,
        source=PAPER,
        needs=(TRAINED,),
    ),
    Field("batch_size", 64, "pairs of a post and a keyphrase in a step", low=1, source=PAPER, needs=(TRAINED,)),
    Field("clip_norm", 5.0, "largest global norm of the gradient", low=1e-12, source=PAPER, needs=(TRAINED,)),
    Field(
        *("num_epochs", 15),
        "passes over the training pairs at most",
        low=1,
        source=PAPER,
        resume=LENGTH,
        needs=(TRAINED,),
    ),
    Field(
        *("patience", 5),
        "evaluations without a lower valid loss that end the training; 0 never",
        low=0,
        source=PAPER,
        needs=(TRAINED, VALIDATED),
    ),
    Field(
        *("joint_epochs", 5),
        "passes after that in which the decoder alone trains, and copies from the classifier too; 0: none",
        low=0,
        source=PAPER,
        needs=(CLASSIFIED,),
    ),
    Field("joint_learning_rate", 1e-4, "of those passes", low=0, source=PAPER, needs=(CLASSIFIED,)),
)

EMBEDDINGS = (
    Field(
        *("inputs", "both"),
        "what of a post the frozen model reads",
        choices=("text", "image", "both"),
        source=OURS,
        needs=(EMBEDDED,),
    ),
    Field(
        *("neighbour_share", 0.5),
        "share of the nearest neighbours in the blend: 1 is the neighbours alone, 0 the linear classifier alone",
        low=0,
        high=1,
        source=OURS,
        needs=(EMBEDDED,),
    ),
    Field("neighbours", 10, "training posts that vote, by their cosine", low=1, source=OURS, needs=(EMBEDDED,)),
    Field("temperature", 0.05, "of the votes", low=1e-6, source=OURS, needs=(EMBEDDED,)),
    Field("decay", 1e-3, "weight of the linear classifier's squared norm", low=0, source=OURS, needs=(EMBEDDED,)),
    Field("classifier_steps", 300, "steps of L-BFGS that fit the classifier", low=1, source=OURS, needs=(EMBEDDED,)),
)

EVALUATION = (
    Field(
        *("answers", "decoder"),
        "whose keyphrases are predicted",
        choices=("decoder", "classifier"),
        resume=MAY_DIFFER,
        needs=(CLASSIFIED,),
    ),
    Field(
        *("beam_size", 10),
        "unfinished keyphrases of the beam search; 1 is greedy",
        low=1,
        source=PAPER,
        needs=(TRAINED,),
    ),
    Field("most_predicted", 5, "keyphrases of a post at most", low=1, source=PAPER),
    Field(
        *("eval_every", 1),
        "epochs between evaluations on valid, whose best is then tested; 0 tests the last epoch",
        low=0,
        needs=(TRAINED,),
    ),
    Field(
        *("valid_posts", 0),
        "posts of the valid split, from its top, that are decoded then; 0 is all",
        low=0,
        needs=(TRAINED, VALIDATED),
    ),
    Field("best_metric", "valid/all/f1@1", "metric that selects the best epoch, and heads the tables"),
    Field("eval_posts", 0, "posts of the test split that are decoded at the end; 0 is all", low=0),
    Field("eval_batch_size", 64, "posts decoded at a time", low=1, resume=MAY_DIFFER),
    Field("ablations", False, "also evaluate with images permuted between posts, and with texts blanked"),
    Field(
        *("keep_checkpoints", 2),
        "number of latest checkpoints kept, one an epoch",
        low=1,
        resume=MAY_DIFFER,
        needs=(TRAINED,),
    ),
    Field(
        "hang_seconds",
        1800.0,
        "seconds without a finished step after which the run ends; 0 never",
        low=0,
        resume=MAY_DIFFER,
    ),
)

SECTIONS = (
    Section("Baselines: model and data", MODEL_AND_DATA),
    Section("Baselines: the traditional models", MODEL),
    Section("Baselines: training", TRAINING),
    Section("Baselines: hidden states", EMBEDDINGS),
    Section("Baselines: evaluation", EVALUATION),
)

BASELINE_FIELDS: tuple[Field, ...] = tuple(field for section in SECTIONS for field in section.fields)
