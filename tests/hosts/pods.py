"""Pods without Kubernetes: namespaces of their own, the user and the rights of the manifests, and KubeRay's commands.

Takes root and Linux. The operator is played by `Kubernetes`, whose API is as much as Ray's own autoscaler for KubeRay asks for.
"""

import http.server
import ipaddress
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CLONE = Path(__file__).parents[2]
NET = "10.99.7"
API = f"{NET}.254"
HEAD_NAME = "head-svc.onehour.svc.cluster.local"
IMAGE = {  # what the Dockerfile sets
    "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": f"{CLONE}/src", "PYTHONUNBUFFERED": "1",
    "RAY_USAGE_STATS_ENABLED": "0", "XDG_CACHE_HOME": "/tmp/cache", "MPLCONFIGDIR": "/tmp/matplotlib", "HOME": "/home/onehour",
}  # fmt: skip
# What KubeRay gives to `ray start`, and as environment.
PARAMS = {"block": "", "dashboard-agent-listen-port": 52365, "metrics-export-port": 8080}
HEAD_PARAMS = PARAMS | {"dashboard-host": "0.0.0.0", "no-monitor": ""}
WORKER_PARAMS = PARAMS | {"address": f"{HEAD_NAME}:6379"}
WORKER_ENV = {"RAY_ADDRESS": f"{HEAD_NAME}:6379", "RAY_NODE_TYPE_NAME": "workers"}
HEAD_ENV = {
    "RAY_ADDRESS": "127.0.0.1:6379",
    "RAY_NODE_TYPE_NAME": "headgroup",
    "RAY_CLOUD_INSTANCE_ID": "head",
    "RAY_enable_autoscaler_v2": "true",
}
ULIMIT = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; "
# Python, the clone and its environment may lie below /root or /tmp, which are others in a pod.
MOUNTS = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
number=0; for path in {needed}; do number=$((number + 1)); mkdir /mnt/$number; mount --bind $path /mnt/$number; done
mkdir /mnt/shared /mnt/pod; mount --bind {folder}/shared /mnt/shared; mount --bind {folder}/{name} /mnt/pod
mount --bind /mnt/pod/hosts /etc/hosts
mount -t tmpfs tmpfs /run; mkdir -p /run/secrets/kubernetes.io; mount --bind /mnt/pod /run/secrets/kubernetes.io
mount --bind /mnt/shared /shared
mount -o remount,bind,ro /
mount -t tmpfs -o mode=1777 tmpfs /tmp; mount -t tmpfs -o mode=1777 tmpfs /dev/shm; mount -t tmpfs -o mode=755 tmpfs /root
number=0; for path in {needed}; do number=$((number + 1)); mkdir -p $path; mount --bind /mnt/$number $path; done
hostname {name}
"""

# Takes away the pods whose names come by its input, and their network, when that ends: by close(), or because the process
# that has started them was killed. A pod's processes are those of its network.
GUARD = """
names=; while read -r name; do names="$names $name"; done
for name in $names; do kill -9 $(ip netns pids $name); ip netns del $name; done
for link in $(ip -o link show master pods | cut -d ' ' -f 2 | cut -d @ -f 1) pods; do ip link del $link; done
[ $# = 0 ] || rmdir "$@"
"""


def shell(command: str) -> None:
    """Run a line of a shell, which has to succeed."""
    subprocess.run(command, shell=True, check=True, capture_output=True)


def as_user(env: dict[str, str], command: list[str]) -> list[str]:
    """A command as user 1000 without capabilities, and with this environment alone."""
    who = ["--reuid=1000", "--regid=1000", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
    return ["setpriv", *who, "env", "-i", *(f"{key}={value}" for key, value in (IMAGE | env).items()), *command]


class Pod:
    """A pod that runs `command` as KubeRay does, by bash; what it says is in `log`."""

    def __init__(self, folder: Path, name: str, number: int, env: dict[str, str], command: str) -> None:
        self.name, self.address, self.env = name, f"{NET}.{number}", env
        self.log = folder / f"{name}.log"
        (folder / name / "serviceaccount").mkdir(parents=True)
        (folder / name / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {name}\n{NET}.1 {HEAD_NAME}\n")
        for secret in ("token", "ca.crt"):
            (folder / name / "serviceaccount" / secret).write_bytes((folder / secret).read_bytes())
        for line in (
            f"ip netns add {name}",
            f"ip link add v{number} type veth peer name eth0 netns {name}",
            f"ip link set v{number} master pods up",
            f"ip -n {name} addr add {self.address}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} link set lo up",
        ):
            shell(line)
        needed = " ".join(shlex.quote(str(path)) for path in dict.fromkeys((sys.base_prefix, sys.prefix, CLONE)))
        start = MOUNTS.format(folder=folder, name=name, needed=needed)
        start += f"exec {shlex.join(as_user(env, ['/bin/bash', '-c', '--', command]))}"
        apart = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc", "bash", "-c", start]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", name, *apart],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                start_new_session=True,
            )
        while Path(f"/proc/{self.first()}").stat().st_uid != 1000:  # until then it mounts
            time.sleep(0.05)

    def end(self) -> None:
        """SIGTERM to its first process, as Kubernetes does after the hook, and in the end SIGKILL."""
        os.kill(self.first(), signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.kill(self.first(), signal.SIGKILL)
            self.process.wait(timeout=20)

    def first(self) -> int:
        """The id of the pod's first process, outside of it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        return int(found[0])

    def run(self, command: list[str], says: int = subprocess.PIPE, **env: str) -> "subprocess.Popen[str]":
        """Start a command in the pod, as `kubectl exec` and hooks do."""
        enter = ["nsenter", f"--target={self.first()}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        return subprocess.Popen(
            [*enter, *as_user(self.env | env, command)],
            stdout=says,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
        )


def certificate(folder: Path) -> ssl.SSLContext:
    """What the API shows to those that have ca.crt; both are new, and lie in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(API))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.crt", folder / "key")
    return context


class Kubernetes:
    """One RayCluster and its pods: keeps as many workers as its spec says, as KubeRay's operator would."""

    def __init__(self, folder: Path, spec: dict[str, Any], token: str) -> None:
        self.folder, self.spec = folder, spec
        self.auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self.pods: dict[str, Pod] = {}
        self.count = 1  # of all pods there ever were: each has another address
        self.wished: list[int] = []
        self.lock = threading.Lock()  # each request to the API has a thread
        (folder / "shared").mkdir()
        made = [path for path in [Path("/shared")] if not path.exists()]
        for path in made:
            path.mkdir()
        os.chown(folder / "shared", 1000, 1000)
        (folder / "token").write_text("of Kubernetes")
        self.guard = subprocess.Popen(
            ["bash", "-c", GUARD, "guard", *map(str, made)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            start_new_session=True,
        )  # fmt: skip
        shell(f"ip link add pods type bridge; ip addr add {API}/24 dev pods; ip link set pods up")
        self.server = http.server.ThreadingHTTPServer((API, 443), lambda *request: Answer(self, *request))
        self.server.socket = certificate(folder).wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def start(self, name: str, command: str, kind: str, **env: str) -> Pod:
        """Start a pod of this node type."""
        number = 1 if kind == "head" else self.count + 1
        self.count += kind != "head"
        assert self.guard.stdin is not None
        print(name, file=self.guard.stdin, flush=True)
        self.pods[name] = Pod(self.folder, name, number, self.auth | env, command)
        return self.pods[name]

    def start_head(self) -> Pod:
        """The head, and in its pod Ray's autoscaler."""
        command = f"{ULIMIT}ray start --head {flags(self.spec['headGroupSpec']['rayStartParams'] | HEAD_PARAMS)}"
        env = {env["name"]: env["value"] for env in self.container("head").get("env", [])} | HEAD_ENV
        head = self.start("head", command, "head", **env)
        autoscaler = ["ray", "kuberay-autoscaler", "--cluster-name=gpt", "--cluster-namespace=onehour"]
        api = {"KUBERNETES_SERVICE_HOST": API, "KUBERNETES_SERVICE_PORT_HTTPS": "443"}
        head.run(autoscaler, subprocess.DEVNULL, **api)
        return head

    def start_worker(self) -> None:
        """One more worker."""
        name = f"worker{self.count + 1}"
        wait = f"until ray health-check --address {HEAD_NAME}:6379; do sleep 1; done; "
        params = WORKER_PARAMS | {"num-cpus": self.container("workers")["resources"]["limits"]["cpu"]}
        self.start(name, f"{wait}{ULIMIT}ray start {flags(params)}", "worker", **WORKER_ENV, RAY_CLOUD_INSTANCE_ID=name)

    def container(self, name: str) -> dict[str, Any]:
        """The container of the head, or of the workers."""
        group = self.spec["headGroupSpec"] if name == "head" else self.spec["workerGroupSpecs"][0]
        return group["template"]["spec"]["containers"][0]  # type: ignore[no-any-return]

    def workers(self) -> list[Pod]:
        """The workers' pods."""
        return [pod for name, pod in self.pods.items() if name.startswith("worker")]

    def take(self, pod: Pod) -> None:
        """End a pod, after its hook, and start another one in its place."""
        pod.end()
        del self.pods[pod.name]
        self.keep_to_the_spec()

    def keep_to_the_spec(self) -> None:
        """Start the workers that are missing."""
        with self.lock:
            for _ in range(self.spec["workerGroupSpecs"][0]["replicas"] - len(self.workers())):
                self.start_worker()

    def change(self, patch: list[dict[str, Any]]) -> None:
        """What the autoscaler wishes; only replicas are looked at."""
        for one in patch:
            if one["path"] == "/spec/workerGroupSpecs/0/replicas":
                self.wished.append(one["value"])
                self.spec["workerGroupSpecs"][0]["replicas"] = one["value"]
        self.keep_to_the_spec()

    def look(self, path: str) -> dict[str, Any]:
        """What the API says of the cluster, or of its pods."""
        if path.startswith("/apis/ray.io/v1/namespaces/onehour/rayclusters/"):
            return {"metadata": {"name": "gpt", "namespace": "onehour", "resourceVersion": "1"}, "spec": self.spec}
        items = [
            {
                "metadata": {"name": name, "labels": {"ray.io/node-type": kind, "ray.io/group": group, "ray.io/cluster": "gpt"}},
                "status": {"podIP": pod.address, "containerStatuses": [{"name": f"ray-{kind}", "state": {"running": {}}}]},
                "spec": {"containers": [{"name": f"ray-{kind}"}]},
            }
            for name, pod in self.pods.items() if name != "submitter"
            for kind, group in [("head", "headgroup") if name == "head" else ("worker", "workers")]
        ]  # fmt: skip
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    def close(self) -> None:
        """Take everything away."""
        self.server.shutdown()
        self.server.server_close()
        self.guard.communicate(timeout=60)


class Answer(http.server.BaseHTTPRequestHandler):
    """One request to the API."""

    def __init__(self, kubernetes: Kubernetes, *request: Any) -> None:
        self.kubernetes = kubernetes
        super().__init__(*request)

    def say(self, content: dict[str, Any]) -> None:
        """Answer with JSON."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def do_GET(self) -> None:
        self.say(self.kubernetes.look(self.path))

    def do_PATCH(self) -> None:
        self.kubernetes.change(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.say(self.kubernetes.look(self.path))

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


def flags(params: dict[str, Any]) -> str:
    """Parameters of ray start, as KubeRay writes them: in the alphabet's order, and those without a value alone."""
    return " ".join(f"--{name}={value}" if value != "" else f"--{name}" for name, value in sorted(params.items()))
