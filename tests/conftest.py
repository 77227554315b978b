"""What all tests share: a cache of their own, and one local Ray for each module that asks for it."""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: several processes share the cores, and waiting threads would spin
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
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
