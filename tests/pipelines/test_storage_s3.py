"""The store over real HTTP: multipart uploads, long listings, faults, kills, a lost bucket."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

s3fs = pytest.importorskip("s3fs")

from moto.server import ThreadedMotoServer  # noqa: E402

from eval.places import StorageError  # noqa: E402
from pipelines.run.lease import Lease  # noqa: E402
from pipelines.run.units import committed_units  # noqa: E402
from pipelines.tables.storage import Store  # noqa: E402
from tests.pipelines.fault_proxy import fault_proxy  # noqa: E402

_PART = 5 << 20


@pytest.fixture(scope="module")
def server():
    """An S3 server of these tests on a loopback port."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    moto.start()
    yield moto.get_host_and_port()
    moto.stop()


@pytest.fixture(scope="module")
def proxy(server):
    with fault_proxy(*server) as found:
        yield found


def _options(url: str) -> dict:
    own = {"key": "test", "secret": "test", "endpoint_url": url, "skip_instance_cache": True}
    return {"s3": {**own, "default_block_size": _PART}}


@pytest.fixture
def store(proxy, request):
    """An empty bucket behind the proxy."""
    proxy.faults, proxy.delay = [], 0.0
    name = "b" + str(abs(hash(request.node.name)) % 10**9)
    found = Store(f"s3://{name}/run", _options(proxy.url))
    found.fs.mkdir(name)
    return found


def test_a_large_file_goes_up_in_parts_and_comes_back_whole(store):
    data = os.urandom(1 << 20) * 12
    with store.writing("images/big.bin") as file:
        for start in range(0, len(data), 1 << 20):
            file.write(data[start : start + (1 << 20)])
    assert store.read_bytes("images/big.bin") == data


@pytest.mark.parametrize("size", [10, _PART + 10])
def test_an_upload_that_fails_in_the_middle_leaves_nothing(store, size):
    def write() -> None:
        with store.writing("images/torn.bin") as file:
            file.write(os.urandom(size))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        write()
    gc.collect()
    assert store.names("images") == []


def test_a_process_killed_in_an_upload_leaves_nothing_and_the_next_one_writes_it(store, server):
    code = f"""
import os, signal
from pipelines.tables.storage import Store
store = Store({store.url!r}, {{**{dict(store.options)!r}}})
with store.writing("images/part-000000000.parquet") as file:
    file.write(os.urandom({3 * _PART}))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert committed_units(store, "images") == set()
    store.write_bytes("images/part-000000000.parquet", b"whole")
    assert store.read_bytes("images/part-000000000.parquet") == b"whole"


def test_more_committed_units_than_one_listing_holds_are_all_found(store, server, monkeypatch):
    # A listing of S3 ends after 1000 names; the same in small.
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "40")
    direct = Store(store.url, _options("http://{}:{}".format(*server)))
    direct.fs.pipe({direct.path(f"images/part-{n:09d}.parquet"): b"x" for n in range(90)})
    answer = direct.fs.call_s3("list_objects_v2", Bucket=direct.path("").split("/")[0])
    assert (answer["KeyCount"], answer["IsTruncated"]) == (40, True)
    assert committed_units(store, "images") == set(range(90))


@pytest.mark.parametrize("status", [500, 503])
def test_answers_of_an_overloaded_server_are_tried_again(store, proxy, status):
    proxy.faults = [status, status]
    store.write_bytes("a.bin", b"1234")
    assert proxy.faults == []
    proxy.faults = [status, status]
    assert store.read_bytes("a.bin") == b"1234"
    assert proxy.faults == []


def test_slow_answers_are_waited_for(store, proxy):
    proxy.delay = 1.0
    store.write_bytes("slow.bin", b"1234")
    assert store.read_bytes("slow.bin") == b"1234"


def test_a_server_that_never_recovers_is_one_sentence(store, proxy):
    store.write_bytes("a.bin", b"1234")
    proxy.faults = [403] * 50
    with pytest.raises(StorageError, match=r"cannot (read|write) s3://.*a\.bin: ") as refused:
        store.write_bytes("a.bin", b"5678")
    assert "\n" not in str(refused.value)
    proxy.faults = []
    assert store.read_bytes("a.bin") == b"1234"


_CREDENTIALS = """
[default]
aws_access_key_id = of-the-default
aws_secret_access_key = secret
[work]
aws_access_key_id = of-work
aws_secret_access_key = secret
region = eu-west-3
"""


@pytest.mark.parametrize(
    ("options", "environment", "signed_by"),
    [
        ({"profile": "work"}, {}, "Credential=of-work/"),
        ({}, {"AWS_PROFILE": "work"}, "Credential=of-work/"),
        ({"profile": "work"}, {}, "/eu-west-3/s3/"),
        ({"client_kwargs": {"region_name": "ap-south-1"}}, {}, "/ap-south-1/s3/"),
        ({}, {"AWS_DEFAULT_REGION": "ca-central-1"}, "/ca-central-1/s3/"),
        ({"anon": True}, {}, None),
    ],
)
def test_profile_region_and_anonymous_access(
    store, proxy, tmp_path, monkeypatch, options, environment, signed_by
):
    store.write_bytes("a.bin", b"1234")
    store.fs.chmod(store.path("a.bin"), "public-read")
    (tmp_path / "credentials").write_text(_CREDENTIALS)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = Store(store.url, {"s3": {**options, "skip_instance_cache": True}})
    assert found.read_bytes("a.bin") == b"1234"
    if signed_by is None:
        assert proxy.authorization is None
    else:
        assert signed_by in proxy.authorization


def test_a_profile_that_is_not_there_is_one_sentence(store, proxy):
    options = {"profile": "nobody", "endpoint_url": proxy.url, "skip_instance_cache": True}
    with pytest.raises(StorageError, match=r"cannot read s3://.*a\.bin: .*nobody"):
        Store(store.url, {"s3": options}).read_bytes("a.bin")


def test_a_bucket_that_goes_away_in_the_middle_is_one_sentence(store):
    store.write_bytes("a.bin", b"1234")
    store.fs.rm(store.root.split("/")[0], recursive=True)
    with pytest.raises(StorageError, match="cannot write s3://"):
        store.write_bytes("b.bin", b"1234")


def test_a_lease_on_a_bucket_is_one_conditional_put(store):
    assert store.create("lease.json", b"a")
    assert not store.create("lease.json", b"b")
    assert store.read_bytes("lease.json") == b"a"
    store.delete("lease.json")
    with Lease(store), pytest.raises(ValueError, match="is being written by process"), Lease(store):
        pass
    assert not store.exists("lease.json")
    together = Barrier(6)

    def take(_: int) -> bool:
        together.wait()
        return store.create("lease.json", os.urandom(4))

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(take, range(6))) == 1
