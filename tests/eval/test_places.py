"""Addresses: a path is a path whatever stands in it, and nothing shows what gives access."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eval.places import StorageError, StorageOptions, place_of, shown
from eval.run_folder import RunFiles

NAME = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=20
).filter(lambda name: name not in (".", "..", "~"))


@given(NAME)
@example("b[1]")
@example("p%20q")
@example("p?q")
@example("a::b")
@example("#x")
@example("~x")
@example("file:")
@example(" ")
def test_a_path_is_taken_as_it_is(name):
    for text in (f"/tmp/{name}", f"{name}/x"):  # noqa: S108
        place = place_of(text)
        assert place.path == str(Path(text).absolute())
        assert place_of(place.address).path == place.path


def test_home_root_and_file_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place_of("~/x").path == f"{tmp_path}/x"
    assert place_of("~").path == str(tmp_path)
    assert (place_of("/").path, place_of("/").address) == ("", "/")
    assert place_of("file:///a%20b/c%3Fd").path == "/a b/c?d"
    assert place_of("file://localhost/a").path == "/a"


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("", None, "address is '', allowed: a path or a URL"),
        ("s3://", None, "s3:// names no bucket, allowed: s3://BUCKET/FOLDER"),
        ("s3:///run", None, "s3:///run names no bucket"),
        ("nowhere://x", None, "no address that fsspec knows"),
        ("file://other/x", None, "allowed: file:///PATH of this machine"),
        ("run", {"endpoint_url": "http://pw"}, "name 'endpoint_url', which is no scheme, allowed"),
        ("run", {"s3": "pw"}, "storage options of 's3' are a str, allowed: a mapping"),
        ("run", ["pw"], "storage options are a list"),
        ("run", {"file": {"key": "pw"}}, "storage options of 'file' are .*key.*, allowed: none"),
    ],
)
def test_what_names_no_place_is_one_sentence(address, options, message):
    with pytest.raises(ValueError, match=message) as refused:
        place_of(address, options)
    assert "pw" not in str(refused.value)


def test_an_option_that_a_file_system_does_not_know_is_one_sentence():
    pytest.importorskip("s3fs")
    from pipelines.tables.storage import Store

    options = {"s3": {"endpoint": "http://127.0.0.1:9", "skip_instance_cache": True}}
    with pytest.raises(StorageError, match=r"s3://b.*storage option 'endpoint' is unknown"):
        Store("s3://b/run", options).check_writable()


def test_an_address_gets_the_options_of_its_own_scheme():
    options = {"s3": {"key": "k", "skip_instance_cache": True}, "https": {"block_size": 7}}
    pytest.importorskip("s3fs")
    assert place_of("s3a://b/x", options).fs.storage_options == {"key": "k"}
    web = place_of("http://127.0.0.1/x.jpg", options).fs
    assert web.block_size == 7
    assert "key" not in web.storage_options


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("http://u:pw@host/x", "http://u:***@host/x"),
        ("http://pw@host:80/x", "http://***@host:80/x"),
        ("postgresql://me:pw@db/flow", "postgresql://me:***@db/flow"),
        ("cannot read sftp://a:pw@h/x: gone", "cannot read sftp://a:***@h/x: gone"),
        ("https://h/a.jpg?X-Amz-Signature=pw&id=3", "https://h/a.jpg?X-Amz-Signature=***&id=3"),
        ("https://h/a?sv=1&sig=pw", "https://h/a?sv=1&sig=***"),
        ("http://h:80/a@b", "http://h:80/a@b"),
        ("/home/me/a:b@c?token", "/home/me/a:b@c?token"),
    ],
)
def test_passwords_and_signatures_of_addresses_are_masked(text, masked):
    assert shown(text) == masked
    assert str(StorageError(text)) == masked


def test_storage_options_show_no_value():
    options = StorageOptions({"s3": {"key": "pw", "secret": "pw"}})
    for text in (repr(options), str(options), f"{options}", f"{options!r}"):
        assert text == "StorageOptions(s3: key, secret)"
    assert pickle.loads(pickle.dumps(options))["s3"]["secret"] == "pw"  # noqa: S301


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"nonsense": "pw"}, "cannot look at s3://b/run: storage option 'nonsense' is unknown"),
        (
            {"key": "k", "secret": "pw", "endpoint_url": "http://127.0.0.1:9"},
            "cannot look at s3://b/run: Could not connect to the endpoint URL",
        ),
    ],
)
def test_a_run_on_a_store_that_cannot_be_used_is_one_sentence(options, said, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError) as caught:
        RunFiles("s3://b/run", {"s3": options})
    assert str(caught.value).startswith(said)
    assert "pw" not in str(caught.value)
