"""clusters/kubernetes: every folder is rendered by kubectl and held against KubeRay's schemas and the rules they miss.

No Kubernetes is asked, and no image is built: what these tests cannot see is told in clusters/kubernetes/README.md.
"""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from kube import CLONE, FOLDER, cluster_of, containers_of, find, render, troubles

from onehour.commands.train import train_options

JOBS = ("cpu", "gpu", "s3", "all")
GONE = object()
HEAD = "spec rayClusterSpec headGroupSpec template spec"
WORKERS = "spec rayClusterSpec workerGroupSpecs 0"
WORKER = f"{WORKERS} template spec"


@pytest.fixture(scope="module")
def rendered():
    return {folder: render(FOLDER / folder) for folder in (*JOBS, "cluster", "queue")}


@pytest.mark.parametrize("folder", [*JOBS, "cluster"])
def test_nothing_is_wrong(rendered, folder):
    assert troubles(rendered[folder]) == []


def test_the_cluster_that_stays_is_the_one_of_the_job(rendered):
    job, stays = (copy.deepcopy(cluster_of(rendered[folder])) for folder in ("cpu", "cluster"))
    for cluster, name in ((job, "gpt"), (stays, "onehour")):
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["template"]["metadata"]["labels"].pop("app.kubernetes.io/instance") == name
    assert stays == job
    assert find(rendered["cluster"], "RayJob") is None


def test_the_cluster_that_stays_may_have_gpus(tmp_path):
    """As README.md tells: ../gpu instead of ../cpu."""
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes" / "cluster" / "kustomization.yaml"
    file.write_text(file.read_text().replace("- ../cpu", "- ../gpu"))
    objects = render(file.parent)
    assert troubles(objects) == []
    assert containers_of(objects)["workers/ray-worker"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(("folder", "gpus"), [("cpu", {}), ("gpu", {"GPU": 1})])
def test_rays_autoscaler_reads_what_the_pods_have(rendered, folder, gpus):
    """By Ray's own code: from none to four workers, each with what its limits say."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = {"metadata": {"name": "gpt", "namespace": "onehour"}, "spec": cluster_of(rendered[folder])}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    workers, head = (config["available_node_types"][name] for name in ("workers", "headgroup"))
    cpus, memory = (8, 32) if gpus else (4, 8)
    assert workers["resources"] == {"CPU": cpus, "memory": memory * 2**30} | gpus
    assert (workers["min_workers"], workers["max_workers"]) == (0, 4)
    assert head["resources"]["CPU"] == 0
    assert config["idle_timeout_minutes"] == 2


def changed(objects, kind, path, value):
    """A copy of `objects` with another value at the path of the first object of a kind."""
    objects = copy.deepcopy(objects)
    *way, last = (int(step) if step.isdigit() else step for step in path.split())
    place = find(objects, kind)
    for step in way:
        place = place[step]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return objects


BROKEN = [
    ("cpu", "RayJob", "spec ttlSecondAfterFinished", 5, "$.spec: Additional properties are not allowed ('ttlSecondAfterFi"),
    ("cpu", "RayJob", f"{HEAD} containers", GONE, "'containers' is a required property"),
    ("cpu", "RayJob", "spec rayClusterSpec authOptions mode", "tokens", "'tokens' is not one of ['disabled', 'token']"),
    ("cpu", "NetworkPolicy", "spec ingres", [], "Additional properties are not allowed ('ingres'"),
    ("cpu", "Namespace", "kind", "Namespaces", "Namespaces onehour: there is no schema for this kind"),
    ("cpu", "RayJob", "spec submissionMode", "K8sJob", "submissionMode is K8sJob; it must be one of K8sJobMode, HTTPMode"),
    ("cpu", "RayJob", "spec backoffLimit", -1, "backoffLimit is negative"),
    ("cpu", "RayJob", "spec activeDeadlineSeconds", GONE, "activeDeadlineSeconds is not there"),
    ("cpu", "RayJob", "spec shutdownAfterJobFinishes", False, "the cluster would stay"),
    ("cpu", "RayJob", "spec deletionStrategy", {"deletionRules": [{"condition": {}, "policy": "DeleteSelf"}]}, "exclude each o"),
    ("cpu", "RayJob", "metadata name", "g" * 48, "the name of a RayJob has at most 47 letters"),
    ("cpu", "RayJob", "spec rayClusterSpec networkPolicy", {"mode": "DenyAll"}, "networkPolicy needs a feature gate"),
    ("cpu", "RayJob", "spec rayClusterSpec authOptions mode", "disabled", "authOptions.mode is not token"),
    ("cpu", "RayJob", "spec rayClusterSpec authOptions", GONE, "authOptions.mode is not token"),
    ("cpu", "RayJob", "spec rayClusterSpec authOptions secretName", GONE, "authOptions has no secretName"),
    ("cpu", "RayJob", "spec rayClusterSpec autoscalerOptions version", "v1", "the autoscaler is not v2"),
    ("cpu", "RayJob", "spec rayClusterSpec enableInTreeAutoscaling", False, "and enableInTreeAutoscaling is not true"),
    ("all", "RayJob", f"{WORKERS} maxReplicas", 4, "workers has 2 of 4 pods, and nobody scales it"),
    ("cpu", "RayJob", f"{WORKERS} minReplicas", 3, "3, 0 and 4 are no least, present and greatest number of workers"),
    ("cpu", "RayJob", "spec rayClusterSpec rayVersion", "2.52.0", "rayVersion is 2.52.0; requirements.lock has 2."),
    ("cpu", "RayJob", f"{WORKER} containers 0 image", "onehour:0.1.0-gpu", "the images differ: onehour:"),
    ("cpu", "RayJob", f"{WORKER} containers 0 image", "rayproject/ray:latest", "latest is in it"),
    ("cpu", "RayJob", f"{WORKER} containers 0 resources limits", {"cpu": "4"}, "workers/ray-worker has no limits of cpu and"),
    ("cpu", "RayJob", f"{WORKER} containers 0 resources limits cpu", "8", "workers/ray-worker requests other resources than"),
    ("cpu", "RayJob", f"{HEAD} containers 0 resources", {k: {"cpu": "1500m", "memory": "6Gi"} for k in ("requests", "limits")},
     "head/ray-head has 1500m cores, which KubeRay rounds up"),
    ("cpu", "RayJob", "spec rayClusterSpec autoscalerOptions resources", GONE, "head/autoscaler has no limits of cpu and memory"),
    ("cpu", "RayJob", "spec rayClusterSpec autoscalerOptions securityContext capabilities", GONE, "head/autoscaler: capa"),
    ("cpu", "RayJob", "spec submitterPodTemplate spec containers 0 securityContext", GONE, "submitter: allowPrivilegeEscalation"),
    ("cpu", "RayJob", "spec submitterPodTemplate spec securityContext", GONE, "submitter may run as root"),
    ("cpu", "RayJob", f"{WORKER} securityContext runAsUser", 0, "workers may run as root"),
    ("cpu", "RayJob", f"{WORKER} securityContext seccompProfile", GONE, "workers has no seccompProfile"),
    ("cpu", "RayJob", f"{WORKER} automountServiceAccountToken", GONE, "workers has a token for Kubernetes"),
    ("cpu", "RayJob", f"{WORKER} restartPolicy", "Always", "workers: restartPolicy is not Never"),
    ("cpu", "RayJob", f"{WORKER} volumes", [{"name": "tmp", "emptyDir": {}}], "workers mounts shared, which is no volume of it"),
    ("cpu", "RayJob", f"{WORKER} volumes 0 name", "temp", "workers has a volume temp and does not mount it"),
    ("cpu", "RayJob", f"{WORKER} volumes 1 persistentVolumeClaim claimName", "nfs", "workers wants the volume claim nfs"),
    ("cpu", "PersistentVolumeClaim", "spec accessModes", ["ReadWriteOnce"], "is not ReadWriteMany"),
    ("cpu", "RayJob", f"{HEAD} hostNetwork", True, "hostNetwork is in it"),
    ("cpu", "RayJob", f"{HEAD} containers 0 env", [{"name": "RAY_AUTH_TOKEN", "value": "1234"}], "the secret RAY_AUTH_TOKEN"),
    ("s3", "RayJob", f"{HEAD} containers 0 env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}], "AWS_SECRET_ACCESS_KEY"),
    ("cpu", "RayJob", f"{WORKER} containers 0 env", [{"name": "OMP_NUM_THREADS", "value": "1"}], "OMP_NUM_THREADS is set"),
    ("cpu", "RayJob", f"{WORKER} containers 0 env", [{"name": "RAY_AUTH_MODE", "value": "token"}], "RAY_AUTH_MODE is set; aut"),
    ("cpu", "RayJob", "spec rayClusterSpec headGroupSpec rayStartParams dashboard-host", "0.0.0.0", "0.0.0.0 is in it"),
    ("cpu", "RayJob", "spec rayClusterSpec headGroupSpec serviceType", "ExternalName", "the head's service is seen from outside"),
    ("cpu", "RayJob", "spec rayClusterSpec headGroupSpec enableIngress", True, "the head has an ingress"),
    ("cpu", "RayJob", "spec submitterPodTemplate metadata labels", {}, "no NetworkPolicy selects submitter"),
    ("cpu", "NetworkPolicy", "spec ingress 0 from", [{"namespaceSelector": {}}], "the pods do not reach each other"),
    ("cpu", "PodDisruptionBudget", "spec minAvailable", "50%", "has no number as minAvailable"),
    ("cpu", "PodDisruptionBudget", "spec selector matchLabels", {"app": "ray"}, "no PodDisruptionBudget selects the head"),
    ("cpu", "RayJob", f"{WORKER} containers 0 lifecycle", GONE, "workers does not wait for the training to save"),
    ("cpu", "RayJob", f"{HEAD} terminationGracePeriodSeconds", GONE, "head is killed before its 90 s to save are over"),
    ("cpu", "RayJob", f"{WORKERS} maxReplicas", 1, "--workers 2 do not fit on 1 pods with room for 1 each"),
    ("gpu", "RayJob", f"{WORKERS} maxReplicas", 1, "--workers 2 do not fit on 1 pods with room for 1 each"),
    ("cpu", "RayJob", "spec rayClusterSpec headGroupSpec rayStartParams", {}, "workers could be placed on the head"),
    ("all", "RayJob", "metadata labels", {"kueue.x-k8s.io/queue-name": "team"}, "there is no queue team in the job's namespace"),
    ("all", "RayJob", "spec rayClusterSpec enableInTreeAutoscaling", True, "Kueue does not take a job that scales its cluster"),
    ("all", "RayJob", f"{WORKERS} replicas", 9, "the job wants 9 of nvidia.com/gpu, and the queue has 4"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "kind", "path", "value", "told"), BROKEN, ids=[row[-1][:60] for row in BROKEN])
def test_what_is_broken_is_told(rendered, folder, kind, path, value, told):
    found = troubles(changed(rendered[folder], kind, path, value))
    assert any(told in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("folder", "old", "new", "told"),
    [
        ("cpu", " --wait 20m", "", "the workers' pods are yet to come, and the job does not --wait"),
        ("cpu", "--workers 2", "--workers 2 --gpu", "--gpu and the limit nvidia.com/gpu go together"),
        ("cpu", "--cpus-per-worker 4", "--cpus-per-worker 5", "--workers 2 do not fit on 4 pods with room for 0 each"),
        ("cpu", "/shared/runs'", "/runs'", "--runs /runs is in no volume"),
        (
            "cpu",
            "--runs /shared/runs'",
            "--runs /tmp/runs'",
            "--runs /tmp/runs ends with the pod, and there is no --storage",
        ),
        (
            "cpu",
            "/shared/runs'",
            "/shared/runs --storage s3://bucket'",
            "there is a --storage, and no credentials for it",
        ),
        ("cpu", "'", "", "takes the && of the entrypoint for itself"),
    ],
)
def test_an_entrypoint_that_is_broken_is_told(rendered, folder, old, new, told):
    entrypoint = find(rendered[folder], "RayJob")["spec"]["entrypoint"]
    assert old in entrypoint
    found = troubles(changed(rendered[folder], "RayJob", "spec entrypoint", entrypoint.replace(old, new)))
    assert any(told in sentence for sentence in found), found


def program(folder, name, text):
    """A program of this name in bash, found before the real one."""
    file = folder / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


def run(folder, *command, **env):
    """Run a command to which the programs in `folder`/bin come first."""
    env = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "SEEN": str(folder / "seen")} | env
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def played(entrypoint, folder, code_of_resume=0):
    """What python is called with on the head, in order; and the exit code.

    KubeRay's submitter gives the entrypoint to a bash, whose `ray job submit` puts its words together again with quotes,
    as Ray does, and the head gives that to sh.
    """
    program(folder, "ray", 'while [ "$1" != -- ]; do shift; done; shift; printf "%s\\0" "$@" > "$SEEN.words"')
    program(folder, "python", f'echo "$*" >> "$SEEN"; case "$*" in *--resume*) exit {code_of_resume};; esac')
    submitter = f"ray job submit --address http://head:8265 --no-wait --submission-id gpt-1 -- {entrypoint} ;"
    assert run(folder, "bash", "-ce", "--", submitter).returncode == 0
    line = shlex.join((folder / "seen.words").read_text().split("\0")[:-1])
    done = run(folder, "sh", "-c", line)
    return (folder / "seen").read_text().splitlines(), done.returncode


def entrypoint_in(rendered, folder, tmp_path):
    """The entrypoint of a folder's job, whose /shared is here."""
    return find(rendered[folder], "RayJob")["spec"]["entrypoint"].replace("/shared/", f"{tmp_path}/")


BEGINS, GOES_ON = "-m onehour train gpt --name gpt ", "-m onehour train --resume gpt "


@pytest.mark.parametrize("folder", ["cpu", "gpu"])
def test_a_job_that_is_tried_again_goes_on_with_its_run(rendered, folder, tmp_path):
    entrypoint = entrypoint_in(rendered, folder, tmp_path)
    (call,), code = played(entrypoint, tmp_path)
    assert code == 0 and call.startswith(BEGINS)
    (tmp_path / "runs" / "gpt").mkdir(parents=True)
    (tmp_path / "runs" / "gpt" / "config.json").touch()
    (_, call), code = played(entrypoint, tmp_path)
    assert code == 0 and call.startswith(GOES_ON)


@pytest.mark.parametrize("folder", ["s3", "all"])
@pytest.mark.parametrize(
    ("code_of_resume", "calls", "code"), [(2, [GOES_ON, BEGINS], 0), (0, [GOES_ON], 0), (1, [GOES_ON], 1)]
)
def test_without_a_shared_folder_the_storage_is_asked_first(rendered, folder, tmp_path, code_of_resume, calls, code):
    seen, exited = played(entrypoint_in(rendered, folder, tmp_path), tmp_path, code_of_resume)
    assert [call[: len(start)] for call, start in zip(seen, calls, strict=True)] == calls
    assert exited == code


@pytest.mark.parametrize("folder", JOBS)
def test_onehour_understands_the_options(rendered, folder, tmp_path):
    calls, _ = played(entrypoint_in(rendered, folder, tmp_path), tmp_path, code_of_resume=2)
    _, config, scale = train_options(calls[-1].removeprefix("-m onehour train ").split())
    assert (scale.workers, scale.gpu, scale.name) == (2, folder in ("gpu", "all"), "gpt")
    assert config.precision == ("bfloat16" if scale.gpu else "float32")


def pre_stop(rendered, pod):
    return containers_of(rendered["cpu"])[pod]["lifecycle"]["preStop"]["exec"]["command"]


def processes(folder, *lines):
    """A folder like /proc, with these command lines."""
    for number, line in enumerate(lines, start=1):
        (folder / "proc" / str(number)).mkdir(parents=True)
        (folder / "proc" / str(number) / "cmdline").write_text(line.replace(" ", "\0") + "\0")


@pytest.mark.parametrize(
    ("code_of_drain", "process", "seconds"),
    [(0, "ray::RayTrainWorker.execute", 100), (0, "ray::IDLE", 0), (1, "ray::RayTrainWorker", 0)],
)
def test_a_worker_tells_ray_that_its_node_goes_and_waits_for_the_training_to_leave(
    rendered, tmp_path, code_of_drain, process, seconds
):
    node = "0123456789abcdef" * 3 + "01234567"
    *bash, command = pre_stop(rendered, "workers/ray-worker")  # the hook sees itself, too
    processes(tmp_path, f"bash -c {command}", "gcs --node-id=ffff", f"raylet --a=1 --node_id={node} --b=2", process)
    program(tmp_path, "ray", f'echo "$*" >> "$SEEN"; exit {code_of_drain}')
    program(tmp_path, "sleep", 'echo "sleep $*" >> "$SEEN"')
    run(tmp_path, *bash, command.replace("/proc/", f"{tmp_path}/proc/"), RAY_ADDRESS="head:6379")
    drain = f"drain-node --address head:6379 --node-id {node} --reason DRAIN_NODE_REASON_PREEMPTION "
    seen = (tmp_path / "seen").read_text()
    assert seen == f"{drain}--reason-message The pod ends. --deadline-remaining-seconds 100\n" + "sleep 1\n" * seconds


@pytest.mark.parametrize(
    ("line", "seconds"), [("python -m onehour train gpt --workers 2", 90), ("python -m onehour show", 0), ("raylet", 0)]
)
def test_the_head_waits_for_a_training_to_save(rendered, tmp_path, line, seconds):
    *bash, command = pre_stop(rendered, "head/ray-head")
    processes(tmp_path, f"bash -c {command}", line)
    program(tmp_path, "sleep", 'echo "sleep $*" >> "$SEEN"')
    (tmp_path / "seen").touch()
    run(tmp_path, *bash, command.replace("/proc/", f"{tmp_path}/proc/"))
    assert (tmp_path / "seen").read_text() == "sleep 1\n" * seconds


def image_troubles(dockerfile, ignored):
    """What is wrong with a Dockerfile and its list of files that do not reach the builder, a sentence each."""
    lines = [line for line in dockerfile.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    steps = [(line.split()[0], line.partition(" ")[2]) for line in lines]
    if not re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", steps[0][1]):
        yield f"{steps[0][1]} is no exact version"
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", dict(steps).get("USER", "")):
        yield "the last USER is root, or not a number"
    if any(step == "ADD" for step, _ in steps):
        yield "ADD is there; COPY brings files, and nothing else"
    for step, rest in steps:
        if step in ("ENV", "ARG") and re.search("TOKEN|SECRET|PASSWORD|KEY", rest):
            yield f"{step} {rest}: a secret stays in the image"
        for command in re.findall("pip install.*", rest):
            if "--constraint requirements.lock" not in command or "--no-cache-dir" not in command:
                yield f"{command}: without the versions of the lock, or with a cache"
        if re.search("apt-get|curl|wget", rest):
            yield f"{rest}: brings what has no version here"
    if ignored.splitlines()[1] != "*":
        yield "what is not named reaches the builder"
    allowed = {line[1:] for line in ignored.splitlines() if line.startswith("!")}
    copied = {path for step, rest in steps if step == "COPY" for path in rest.split()[:-1]}
    yield from (f"{path} does not reach the builder" for path in copied - allowed)
    yield from (f"{path} reaches the builder, and nobody needs it" for path in allowed - copied)
    yield from (f"{path} is not there" for path in copied if not (CLONE / path).exists())


DOCKERFILE = (FOLDER / "Dockerfile").read_text()
IGNORED = (FOLDER / "Dockerfile.dockerignore").read_text()


def test_the_image():
    assert list(image_troubles(DOCKERFILE, IGNORED)) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("python:3.11.14-slim-bookworm", "python:3-slim", "python:3-slim is no exact version"),
        ("USER 1000:1000", "", "the last USER is root"),
        ("USER 1000:1000", "USER onehour", "the last USER is root, or not a number"),
        ("COPY src src", "ADD https://example.com/src.tar src", "ADD is there"),
        ("ENV ", "ENV WANDB_API_KEY=1 ", "a secret stays in the image"),
        ("--constraint requirements.lock '", "'", "without the versions of the lock"),
        (
            "COPY src src",
            "RUN apt-get install -y gcc\nCOPY src src",
            "apt-get install -y gcc: brings what has no version",
        ),
        ("COPY src src", "COPY . src", ". does not reach the builder"),
        ("COPY notebooks notebooks", "", "notebooks reaches the builder, and nobody needs it"),
        ("COPY src src", "COPY source src", "source is not there"),
    ],
)
def test_an_image_that_is_broken_is_told(old, new, told):
    assert old in DOCKERFILE
    found = list(image_troubles(DOCKERFILE.replace(old, new), IGNORED))
    assert any(told in sentence for sentence in found), found


def test_files_that_nobody_named_do_not_reach_the_builder():
    assert "what is not named reaches the builder" in image_troubles(DOCKERFILE, IGNORED.replace("*\n", ".git\n", 1))


def test_the_readme_names_every_folder_and_how_to_make_every_secret(rendered):
    text = (FOLDER / "README.md").read_text()
    assert [folder for folder in rendered if f"`clusters/kubernetes/{folder}`" not in text] == []
    dumped = json.dumps([rendered[folder] for folder in rendered])
    secrets = set(re.findall(r'"secretRef": \{"name": "([\w-]+)"|"secretName": "([\w-]+)"', dumped))
    assert secrets == {("", "ray-token"), ("s3", "")}
    assert [secret for pair in secrets for secret in pair if f"create secret generic {secret}" not in text] == []
