"""Who does the work does not matter: several processes and Ray give the same, and lose nothing."""

import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("pyarrow")

from encode_data import COUNT, content_of, encode, fill_folder, make_run

from sparsight.encode import How
from sparsight.encode.drivers.devices import Share
from sparsight.errors import SparsightError

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning"
)  # Ray's own


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, a folder of pictures, and their sink."""
    place = tmp_path_factory.mktemp("drivers")
    run, images = make_run(place), fill_folder(place / "images")
    encode(run, images, place / "sink")
    return run, images, place / "sink"


def test_processes_share_the_parts():
    parts = list(range(7))
    shares = [Share(index, 3).of(parts) for index in range(3)]
    assert sorted(part for share in shares for part in share) == parts


def test_two_processes_make_one_sink(made, tmp_path):
    run, images, straight = made
    line = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", 2,
        "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", 0, "-m", "sparsight", "encode", run, "--images", images,
        "--out", tmp_path / "sink", "--max-tokens", 48, "--batch", 3, "--part", 7, "--threads", 1,
    ]  # fmt: skip
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert content_of(tmp_path / "sink") == content_of(straight)
    assert done.stderr.count("pictures in") == 1  # one of them speaks


@pytest.fixture(scope="module")
def ray():
    """Ray, with two cores whatever the machine has."""
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    module = pytest.importorskip("ray")
    pytest.importorskip("ray.data")
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield module
    module.shutdown()


def test_two_actors_of_ray_go_on_with_what_another_began(made, tmp_path, ray, monkeypatch):
    from sparsight.encode.ledger import Ledger

    run, images, straight = made
    usual = Ledger.mark

    def stopped(ledger, part, tally):
        if part == 1:
            raise KeyboardInterrupt
        usual(ledger, part, tally)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", stopped)
        with pytest.raises(KeyboardInterrupt):
            encode(run, images, tmp_path / "sink")
    summary = encode(run, images, tmp_path / "sink", How(part_pictures=7, ray="local", actors=2))
    assert 0 < summary["run"]["pictures"] < COUNT - 2
    assert content_of(tmp_path / "sink") == content_of(straight)


def test_what_an_actor_refuses_is_one_sentence(made, tmp_path, ray):
    run, images, _ = made
    encode(run, images, tmp_path / "sink", How(part_pictures=7, limit=7))
    shutil.rmtree(tmp_path / "sink" / "features")
    (tmp_path / "sink" / "features").write_text("in the way")
    with pytest.raises(SparsightError, match="cannot write") as caught:
        encode(run, images, tmp_path / "sink", How(part_pictures=7, ray="local", actors=1))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_an_address_that_nobody_answers():
    pytest.importorskip("ray")
    from sparsight.encode.drivers import cluster

    class Ray:
        def init(self, **_):
            raise ConnectionError("Could not find any running Ray instance.\nMore.")

    with pytest.raises(SparsightError, match=r"no Ray cluster answers at '10.0.0.1:6379'") as caught:
        cluster.connect(Ray(), "10.0.0.1:6379")
    assert "\n" not in str(caught.value)
