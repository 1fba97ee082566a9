"""The environments in which the extension is tried: which Python, and which versions of what it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "environments"
PINS = Path(__file__).parent / "pins"
# What a kernel needs besides us. ipykernel 6.17 is Colab's, and the oldest that is tried.
KERNEL = ("ipykernel>=6.17",)
# What Colab and Kaggle have of our dependencies and of theirs, and classic Notebook, with its form of widgets.
HOSTED = (
    *("ipykernel", "ipython", "ipywidgets", "notebook", "jupyter-server", "traitlets", "tornado", "psutil", "decorator"),
    *("anywidget", "markdown-it-py", "pyyaml", "certifi", "nvidia-ml-py", "httpx", "huggingface-hub", "openai"),
)  # fmt: skip
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True)
class Environment:
    """An environment.

    Attributes:
        name: of its folder.
        about: what it is, for a table.
        pythons: the versions of Python that it can have, the best first.
        before: what it has before vllm_magic is installed, as pip writes requirements; the versions are those of `pins`.
        pins: files of `PINS`, installed one over the other.
        beside: what is installed together with vllm_magic.
        options: for uv's resolver.
        hosted: the notebook service that its kernel belongs to; "" for none.
    """

    name: str
    about: str
    pythons: tuple[str, ...]
    before: tuple[str, ...] = ()
    pins: tuple[str, ...] = ()
    beside: tuple[str, ...] = KERNEL
    options: tuple[str, ...] = ()
    hosted: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the environment."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


OLDEST = Environment(
    "oldest",
    "the lowest version of each dependency that pyproject.toml admits",
    VERSIONS,
    options=("--resolution", "lowest-direct"),
)
NEWEST = Environment("newest", "the newest version of each dependency", VERSIONS[::-1])
COLAB = Environment(
    "colab", "the versions of Google Colab", ("3.13", *VERSIONS), HOSTED, pins=("colab.txt",), hosted="colab"
)
KAGGLE = Environment(
    "kaggle",
    "the versions of Kaggle",
    ("3.12", *VERSIONS),
    HOSTED,
    pins=("colab.txt", "kaggle.txt"),
    hosted="kaggle",
)
TESTED = (OLDEST, NEWEST, COLAB)  # by `make test`, which runs a notebook in KAGGLE
TABLE = (
    KAGGLE,
    *(Environment(f"python{one}", f"Python {one}, the newest dependencies", (one,)) for one in VERSIONS),
    Environment(
        "standalone",
        "a Python built by python-build-standalone without os.pidfd_open, as uv installed it until 2026",
        ("standalone",),
    ),
    Environment(
        "prereleases", "pre-releases of the dependencies", VERSIONS[::-1], options=("--prerelease", "allow")
    ),
)
ALL = {one.name: one for one in (*TESTED, *TABLE)}
