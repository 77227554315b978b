"""The job of clusters/kubernetes/cpu, played on this machine from its first pod to its first steps: it is not changed for that.

Real are: the manifest, the commands that KubeRay makes of it, the rights, the read-only root, the token, one address for each
pod, Ray, Ray's autoscaler for KubeRay, gloo between the pods. Played are: Kubernetes' API, and the operator.
"""

import secrets
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "clusters"))
from kube import FOLDER, cluster_of, find, render
from pods import NET, Kubernetes

pytestmark = pytest.mark.clusters
JOB, DASHBOARD = "gpt-1", f"http://{NET}.1:8265"


@pytest.fixture(scope="module")
def job():
    return find(render(FOLDER / "cpu"), "RayJob")["spec"]


@pytest.fixture
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


def see(pod, word, seconds=150, times=1):
    """Wait until the pod has said a word so often; returns what it has said."""
    end = time.monotonic() + seconds
    while pod.log.read_text().count(word) < times:
        assert time.monotonic() < end and pod.process.poll() is None, pod.log.read_text()
        time.sleep(0.2)
    return pod.log.read_text()


def test_a_job_begins_with_a_head_alone_and_trains(kubernetes, job):
    began = time.monotonic()
    head = kubernetes.start_head()
    log = kubernetes.start("submitter", submitter(job["entrypoint"]), "submitter")
    # Ray's autoscaler brings the workers that onehour waits for.
    see(log, "Waiting for up to 1200 s: 2 workers with 4 CPU cores each do not fit on 1 node with 0 CPU cores")
    print(f"the job waits for workers after {time.monotonic() - began:.0f} s")
    see(log, "\nstep ")
    print(f"the first step is told after {time.monotonic() - began:.0f} s")
    assert kubernetes.wished == [2]
    said, _ = head.run(["sh", "-c", "touch /x /home/onehour/x; grep Cap /proc/self/status; id -u"]).communicate()
    assert said.count("Read-only file system") + said.count("No such file") == 2 and said.endswith("\n1000\n"), said
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0000000000000000"}
