"""The job of clusters/kubernetes/cpu, played on this machine from its first pod to its first steps: it is not changed for that.

Real are: the manifest, the commands that KubeRay makes of it, the rights, the read-only root, the token, one address for each
pod, Ray, Ray's autoscaler for KubeRay, gloo between the pods. Played are: Kubernetes' API, and the operator.
"""

import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "clusters"))
from kube import FOLDER, cluster_of, find, render
from lab import PATIENCE, wait_until
from pods import NET, Kubernetes

from onehour.training.run import Run

pytestmark = [pytest.mark.clusters, pytest.mark.timeout(3 * PATIENCE)]
JOB, DASHBOARD = "gpt-1", f"http://{NET}.1:8265"


@pytest.fixture(scope="module")
def job():
    return find(render(FOLDER / "cpu"), "RayJob")["spec"]


@pytest.fixture(scope="module")
def kubernetes(job, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kubernetes")
    kubernetes = Kubernetes(folder, cluster_of([{"kind": "RayJob", "spec": job}]), secrets.token_hex(32))
    yield kubernetes
    kubernetes.close()


def submitter(entrypoint):
    """What the submitter's pod runs in K8sJobMode: wait for the head, submit unless that was done, and show the log."""
    healthy = f"import urllib.request as u; exit(b'success' not in u.urlopen('{DASHBOARD}/api/gcs_healthz', timeout=5).read())"
    at = f"--address {DASHBOARD}"
    return (
        f'set -e; until python -c "{healthy}" >/dev/null 2>&1 ; do sleep 2 ; done ; '
        f"if ! ray job status {at} {JOB} >/dev/null 2>&1 ; "
        f"then ray job submit {at} --no-wait --submission-id {JOB} -- {entrypoint} ; fi ; "
        f"ray job logs {at} --follow {JOB}"
    )


def see(pod, word, times=1):
    """Wait until the pod has said a word so often; returns what it has said."""
    wait_until(lambda: pod.log.read_text().count(word) >= times or pod.process.poll() is not None, pod.log.read_text)
    said = pod.log.read_text()
    assert said.count(word) >= times, said
    return said


def hook(kubernetes, pod):
    """Run the preStop hook of a pod to its end; returns what it says, and its exit code."""
    container = kubernetes.container("head" if pod.name == "head" else "workers")
    process = pod.run(container["lifecycle"]["preStop"]["exec"]["command"])
    return process.communicate()[0], process.returncode


def test_pods_end_with_the_process_that_has_started_them_however_that_ends(tmp_path):
    code = "import os, sys; from pathlib import Path; from pods import Kubernetes; "
    code += "pod = Kubernetes(Path(sys.argv[1]), {}, '').start('alone', 'sleep 1000', 'head'); "
    code += "print(pod.first(), flush=True); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    killed = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -9
    process, bridge = Path("/proc", killed.stdout.strip()), Path("/sys/class/net/pods")
    wait_until(lambda: not process.exists() and not bridge.exists())


def test_a_job_begins_with_a_head_alone_and_trains(kubernetes, job, capsys):
    began = time.monotonic()
    head = kubernetes.start_head()
    log = kubernetes.start("submitter", submitter(job["entrypoint"]), "submitter")
    # Ray's autoscaler brings the workers that onehour waits for.
    see(log, "Waiting for up to 1200 s: 2 workers with 4 CPU cores each do not fit on 1 node with 0 CPU cores")
    waits = time.monotonic() - began
    see(log, "\nstep ")
    with capsys.disabled():
        print(
            f"\nthe job waits for workers after {waits:.0f} s, its first steps are told after {time.monotonic() - began:.0f} s"
        )
    assert kubernetes.wished == [2]
    said, _ = head.run(["sh", "-c", "touch /x /home/onehour/x; grep Cap /proc/self/status; id -u"]).communicate()
    assert said.count("Read-only file system") + said.count("No such file") == 2 and said.endswith("\n1000\n"), said
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0000000000000000"}


def test_a_worker_whose_pod_goes_is_left_in_time(kubernetes, capsys):
    gone, log = kubernetes.workers()[0], kubernetes.pods["submitter"]
    began = time.monotonic()
    said, code = hook(kubernetes, gone)
    assert code == 0, said
    left = time.monotonic()
    told = see(log, f"The node {gone.address} is about to be taken away: the workers save and go on without it.")
    assert "A worker died" not in told
    kubernetes.take(gone)
    see(log, "\nstep ", times=told.count("\nstep ") + 2)
    with capsys.disabled():
        print(
            f"the pod is left after {left - began:.0f} s, and another one trains after {time.monotonic() - left:.0f} s"
        )


def test_a_job_that_is_deleted_is_saved(kubernetes):
    """The operator stops the job, and the head's pod waits for it to save."""
    head, log = kubernetes.pods["head"], kubernetes.pods["submitter"]
    stop = head.run(["ray", "job", "stop", "--no-wait", f"--address={DASHBOARD}", JOB])
    assert stop.wait() == 0
    said, code = hook(kubernetes, head)
    assert code == 0, said
    see(log, "which is saved; go on with: onehour train --resume gpt --runs /shared/runs")
    run = Run(kubernetes.folder / "shared/runs/gpt")
    assert run.newest_checkpoint() == (run.checkpoint_at(run.rows()[-1]["step"]), [])
