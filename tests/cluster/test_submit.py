"""What `onehour submit`, `jobs` and `cluster` refuse before they do anything; no Ray is started."""

import contextlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.job_submission import JobStatus

from onehour.cli import main
from onehour.cluster import package
from onehour.cluster.jobs import check_versions, exit_code
from onehour.cluster.local import LocalCluster, keeper_lock, local_cluster, state_file
from onehour.cluster.package import measure, runtime_env
from onehour.commands.submit import check_options, with_places
from onehour.errors import InputError, TrainingError

CLONE = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)


# The commands


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("submit", "submit wants a command after --, such as: onehour submit -- train gpt --workers 2"),
        ("submit train toy", "submit wants a command after --"),
        ("submit -- trian toy", "submit wants a command after --, such as: onehour submit -- train gpt --workers 2; there is no"),
        ("submit -- train toy", "There is no cluster to speak to: name one by --address http://HEAD:8265, or start one"),
        ("submit --address http://127.0.0.1:1 -- doctor", "Nothing answers at http://127.0.0.1:1; is the cluster up"),
        ("submit --address head:8265 -- doctor", "head:8265 is no job server; its address begins with http://"),
        ("submit --address http://127.0.0.1:1 -- train", "There is no recipe to train"),
        ("submit --address http://127.0.0.1:1 -- train toy", "--runs runs would be a folder of the job, and go"),
        ("submit --address http://127.0.0.1:1 -- search toy", "--runs runs would be a folder of the job, and go with it; name"),
        ("submit --address http://127.0.0.1:1 -- search", "search wants a recipe first, such as: onehour submit -- search gpt"),
        ("submit --address http://127.0.0.1:1 -- search toy --space learning_rat=0.1", "There is no hyperparameter 'learn"),
        ("submit --address http://127.0.0.1:1 -- scale toy", "--runs runs would be a folder of the job, and go with it; name"),
        ("submit --address http://127.0.0.1:1 -- scale toy --workers 2 1", "workers is 2 1; it must be numbers"),
        ("submit --address http://127.0.0.1:1 -- prepare gpt --workers 2", "Workers on the cluster at http://127.0.0.1:1 write"),
        ("submit --address http://127.0.0.1:1 -- prepare gpt --workers -1", "workers is -1; it must be 0 or more"),
        ("submit --address http://127.0.0.1:1 -- prepare toy --storage there", "--storage there would be a folder of the job,"),
        ("submit --address http://127.0.0.1:1 -- train toy --num-steps 0", "num_steps is 0"),
        ("submit --address http://127.0.0.1:1 --runtime-env no.yaml -- doctor", "The runtime environment no.yaml cannot be"),
        ("jobs", "There is no cluster to speak to"),
        ("jobs stop", "There is no: onehour jobs stop; there are onehour jobs, and status, logs, stop ID."),
        ("cluster status", "No cluster of onehour runs on this machine; start one by: onehour cluster start"),
        ("cluster scale 3", "No cluster of onehour runs on this machine"),
        ("cluster scale 0", "There is no: onehour cluster scale 0; there are start"),
        ("cluster scale many", "There is no: onehour cluster scale many; there are start, status, scale NODES and stop."),
        ("cluster start --nodes 0", "nodes is 0; it must be at least 1."),
        ("cluster start --port 80", "port is 80; it must be from 1024 to 65535."),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence(line, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(line.split())
    error = capsys.readouterr().err
    assert error.startswith(f"onehour: {said}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("line", ["submit --help", "cluster start --help", "jobs --help", "cluster"])
def test_help(line, capsys):
    with contextlib.suppress(SystemExit):
        main(line.split())
    assert f"usage: onehour {line.removesuffix(' --help')} " in capsys.readouterr().out


@pytest.fixture
def server():
    """A server that knows nothing of Ray."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_what_answers_and_is_no_job_server(server, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["jobs", "--address", f"http://127.0.0.1:{server}"])
    assert f"What answers at http://127.0.0.1:{server} is no job server of Ray: " in capsys.readouterr().err
    assert "RAY_API_SERVER_ADDRESS" not in os.environ  # it would send every later job of this process there


def test_a_port_that_is_taken(server, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["cluster", "start", "--port", str(server)])
    assert f"Something listens at port {server} already; choose another --port" in capsys.readouterr().err


def test_without_rays_dashboard_the_extra_is_named():
    code = "import sys; sys.modules['aiohttp'] = None\nfrom onehour.cli import main\nmain(sys.argv[1:])"
    for line in ("cluster start", "submit -- train toy", "jobs"):
        done = subprocess.run([sys.executable, "-c", code, *line.split()], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "onehour: Jobs and Ray's dashboard are not installed: pip install 'onehour[cluster]'\n"


# The cluster of this machine


def test_more_nodes_than_there_is_memory_for(capsys, monkeypatch):
    monkeypatch.setattr("onehour.commands.cluster.memory_bytes", lambda: (16 * 10**9, 3 * 10**9))
    with pytest.raises(SystemExit, match="2"):
        main(["cluster", "start", "--nodes", "20"])
    told = (
        "20 nodes would take 6.2 GB of memory before they have any work, and 3.0 GB are free here; ask for 6 at most."
    )
    assert capsys.readouterr().err == f"onehour: {told}\n"


def test_a_cluster_is_there_as_long_as_its_keeper_lives(tmp_path):
    state_file().parent.mkdir(parents=True)
    cluster = LocalCluster("127.0.0.1:1", "http://127.0.0.1:2", tmp_path, 2, 2, os.getpid())
    with keeper_lock():
        assert local_cluster() is None  # not yet
        cluster.write(state_file())
        assert local_cluster() == cluster
        here = str(Path("runs").absolute())
        assert with_places(["train", "toy"], cluster.jobs) == ["train", "toy", "--runs", here]
        prepare = ["prepare", "gpt", "--storage=runs"]
        assert with_places(prepare, cluster.jobs) == [*prepare, "--storage", here]
    assert local_cluster() is None


def test_to_stop_what_is_not_there_is_no_mistake(capsys):
    main(["cluster", "stop"])
    assert capsys.readouterr().out == "No cluster of onehour runs on this machine; there is nothing to stop.\n"


def test_the_help_of_a_command_needs_no_cluster(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["submit", "--", "train", "toy", "--help"])
    assert "usage: onehour train toy" in capsys.readouterr().out


def test_a_state_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(SystemExit, match="2"):
        main(["cluster", "start"])
    assert "set XDG_STATE_HOME" in capsys.readouterr().err


# What travels


def test_from_a_clone_its_own_sources_are_imported():
    environment = runtime_env(CLONE, None)
    assert environment["env_vars"]["PYTHONPATH"] == "src"
    assert "py_modules" not in environment


def test_from_elsewhere_onehour_goes_along_and_settings_are_added(tmp_path):
    (tmp_path / "my.yaml").write_text("env_vars: {AWS_ENDPOINT_URL: 'http://store'}\npip: [tokenizers]\n")
    environment = runtime_env(tmp_path, tmp_path / "my.yaml")
    assert environment["py_modules"] == [str(package.PACKAGE)]
    assert environment["env_vars"].items() > {"PYTHONPATH": "src", "AWS_ENDPOINT_URL": "http://store"}.items()
    assert environment["pip"] == ["tokenizers"]


@pytest.mark.parametrize("text", ["[a", "- a", ""])
def test_a_runtime_environment_that_is_none(tmp_path, text):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(InputError, match=r"The runtime environment .*my\.yaml "):
        runtime_env(tmp_path, tmp_path / "my.yaml")


def test_runs_and_what_is_ignored_stay_here(tmp_path):
    for name in (
        "mine.py",
        "runs/toy-1/model",
        "data/corpus",
        ".venv/python",
        "deep/__pycache__/x.pyc",
        "a.ipynb",
        ".git/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("12345")
    (tmp_path / ".rayignore").write_text("data/\n")
    assert measure(runtime_env(tmp_path, None)) == (2, 11)  # mine.py and .rayignore


def test_the_clone_is_small():
    assert measure(runtime_env(CLONE, None))[1] < 3e6


def test_what_is_too_large_is_named(tmp_path):
    for name, size in (("corpus", 60e6), ("small", 1e3), ("other", 50e6)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(int(size))
    with pytest.raises(InputError, match="More than 100 MB") as refused:
        measure(runtime_env(tmp_path, None))
    assert "much of it in corpus (60 MB) and other (50 MB); name what" in str(refused.value)


# The run, the versions, the end


@pytest.mark.parametrize(
    "line",
    [
        "train toy --runs /shared/runs",
        "train toy --storage s3://b/r",
        "train --resume x --runs /shared/runs",
        "train toy --from search-toy-1 --runs /shared/runs",
        "search --resume search-toy-1 --runs /shared/runs",
        "prepare gpt --workers 2 --text /shared/*.txt --storage /shared/runs",
        "prepare gpt",
        "show toy-1 --runs /shared/runs",
        "doctor",
    ],
)
def test_what_stays_is_taken_as_it_is(line):
    check_options(line.split(), "http://head:8265")
    assert with_places(line.split(), "http://head:8265") == line.split()


def client(ray, python):
    answer = {"data": {"rayVersion": ray, "pythonVersion": python}}
    return SimpleNamespace(_do_request=lambda *_: SimpleNamespace(json=lambda: answer))


def test_other_versions_are_told_and_old_ones_refused():
    told = check_versions(client("2.999.0", "3.99.1"))
    assert [sentence.partition(",")[0] for sentence in told] == [
        "The cluster has Ray 2.999.0",
        "The cluster has Python 3.99.1",
    ]
    with pytest.raises(InputError, match=r"The cluster has Ray 2\.9\.3, and onehour needs 2\.60 or newer there\."):
        check_versions(client("2.9.3", "3.11.1"))


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", 130, 130), ("FAILED", -9, 137), ("STOPPED", None, 130)],
)
def test_a_job_ends_as_its_command_did(status, code, ours):
    assert exit_code(SimpleNamespace(status=JobStatus(status), driver_exit_code=code)) == ours


def test_a_job_that_never_came_to_its_command_says_why():
    job = SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=None, submission_id="x", message="no such package")
    with pytest.raises(TrainingError, match="The job x could not run: no such package"):
        exit_code(job)
