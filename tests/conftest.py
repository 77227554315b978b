"""What all tests share: a cache of their own, and one local Ray for each module that asks for it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: several processes share the cores, and waiting threads would spin
os.environ.pop("RAY_ADDRESS", None)  # never a Ray that these tests did not start


@pytest.fixture(autouse=True, scope="session")
def folders_of_the_tests(tmp_path_factory):
    """Prepared data go to a folder of this session, and a cluster of `onehour cluster` that runs here is not seen."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        environment.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def local_ray():
    """A Ray on this machine with 8 CPUs, more than it has: these tests are about results, not speed."""
    import ray

    from onehour.cluster.connect import stay_on_loopback

    stay_on_loopback()
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of a real language model, if it was fetched."""
    folder = Path(__file__).parents[1] / "pretrained" / "smollm2"
    if not folder.is_dir():
        pytest.skip("there is no pretrained/smollm2; make pretrained fetches it")
    return folder


KEY = {"accessKey": "test-only", "secretKey": "test-only"}


def free_ports(number: int) -> list[int]:
    """Ports p for which p + 10,000, which the server takes as well, is free, too."""
    free = []
    for port in range(20_000 + os.getpid() % 9000, 30_000):  # not those that another process of tests looks at
        with socket.socket() as one, socket.socket() as other, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            other.bind(("127.0.0.1", port + 10_000))
            free.append(port)
        if len(free) == number:
            return free
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def s3(tmp_path_factory) -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    folder = tmp_path_factory.mktemp("s3")
    identity = {"name": "test", "credentials": [KEY], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    api, master, volume, filer = free_ports(4)
    server = subprocess.Popen(
        [Path(sys.executable).parent / "weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3",
         f"-s3.config={folder / 's3.json'}", f"-s3.port={api}", f"-master.port={master}", f"-volume.port={volume}",
         f"-filer.port={filer}", "-s3.port.iceberg=0", "-s3.port.lance=0"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY["accessKey"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", KEY["secretKey"])
        uri = f"s3://bucket/runs?endpoint_override=127.0.0.1:{api}&scheme=http&region=us-east-1&allow_bucket_creation=true"
        while not opens(uri):
            time.sleep(0.2)
        yield uri
    server.kill()
    server.wait()


def opens(uri: str) -> bool:
    from onehour.errors import InputError
    from onehour.training.storage import open_storage

    with contextlib.suppress(InputError):
        return open_storage(uri) is not None
    return False
