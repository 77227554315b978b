"""The job of clusters/kubernetes/cpu, played on this machine from its first pod to its last: it is not changed for that.

Real are: the manifest, the commands that KubeRay makes of it, the rights, the read-only root, the token, one address for each
pod, Ray, Ray's autoscaler for KubeRay, gloo between the pods, the hooks. Played are: Kubernetes' API, and the operator.
"""

import json
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


def hook(kubernetes, pod):
    """Run the pod's preStop hook; returns what it says, its exit code and its seconds."""
    command = kubernetes.container("head" if pod.name == "head" else "workers")["lifecycle"]["preStop"]["exec"][
        "command"
    ]
    began = time.monotonic()
    process = pod.run(command)
    said, _ = process.communicate(timeout=110)
    return said, process.returncode, time.monotonic() - began


def test_a_job_from_its_first_pod_to_its_last(kubernetes, job):
    began = time.monotonic()
    head = kubernetes.start_head()
    log = kubernetes.start("submitter", submitter(job["entrypoint"]), "submitter")
    # Ray's autoscaler brings the workers that onehour waits for.
    see(log, "Waiting for up to 1200 s: 2 workers with 4 CPU cores each do not fit on 1 node with 0 CPU cores")
    print(f"the job waits for workers after {time.monotonic() - began:.0f} s")
    see(log, "\nstep ")
    print(f"the first step is told after {time.monotonic() - began:.0f} s")
    assert kubernetes.wished == [2]
    said, code = (
        head.run(["sh", "-c", "touch /x /home/onehour/x; grep Cap /proc/self/status; id -u"]).communicate()[0],
        0,
    )
    assert said.count("Read-only file system") + said.count("No such file") == 2 and said.endswith("\n1000\n"), said
    assert {line.split()[1] for line in said.splitlines() if line.startswith("Cap")} == {"0000000000000000"}
    # A worker's pod goes, with its hook: the training saves, leaves it, and goes on where another has come.
    told = see(log, "\nstep ").count("\nstep ")
    gone = kubernetes.workers()[0]
    said, code, seconds = hook(kubernetes, gone)
    assert code == 0, said
    print(f"the training has left the pod after {seconds:.0f} s; it ends {kubernetes.take(gone):.1f} s after SIGTERM")
    left = time.monotonic()
    see(log, f"The node {gone.address} is about to be taken away: the workers save and go on without it.")
    see(log, "\nstep ", times=told + 2)
    print(f"it goes on with another one after {time.monotonic() - left:.0f} s")
    # The RayJob is deleted: the operator stops the job, and the head's pod waits for it to save.
    stop = head.run(["ray", "job", "stop", "--no-wait", f"--address={DASHBOARD}", JOB])
    assert stop.wait(timeout=60) == 0
    said, code, seconds = hook(kubernetes, head)
    assert code == 0, said
    words = see(log, "which is saved; go on with: onehour train --resume gpt --runs /shared/runs")
    print(f"the head's hook has waited {seconds:.0f} s for: {words.split('onehour: ')[-1].splitlines()[0]}")
    run = kubernetes.folder / "shared" / "runs" / "gpt"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (run / "checkpoints" / f"step_{last:07d}").is_dir()
    print(f"the head ends {head.end():.1f} s after SIGTERM")
