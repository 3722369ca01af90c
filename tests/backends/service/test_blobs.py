import hashlib
from pathlib import Path

import pytest

from backends.service.blobs import BlobStore
from backends.service.refusals import Refused, TooLarge, Unknown, WrongOffset
from flux_core.errors import Corrupt

DATA = bytes(range(256)) * 16
NAME = hashlib.sha256(DATA).hexdigest()


def test_what_was_added_is_read_back_under_its_sha256(tmp_path: Path):
    store = BlobStore(tmp_path)
    assert store.add(DATA) == NAME
    assert store.add(DATA) == NAME
    assert store.read(NAME) == DATA
    assert list(store.infos()) == [NAME]


@pytest.mark.parametrize(
    "name",
    ["", "..", "../" + "0" * 61, "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 63 + "/", "0" * 64 + "\n"],
)
def test_a_name_that_is_no_sha256_is_refused_everywhere(tmp_path: Path, name: str):
    store = BlobStore(tmp_path)
    for use in (store.path, store.has, store.read, store.remove, store.received_bytes):
        with pytest.raises(Refused, match="not the name of a blob"):
            use(name)


def test_a_blob_that_changed_on_disk_is_not_handed_out(tmp_path: Path):
    store = BlobStore(tmp_path)
    store.add(DATA)
    store.path(NAME).write_bytes(DATA[:-1])
    with pytest.raises(Corrupt, match="damaged on disk"):
        store.read(NAME)


def test_an_upload_goes_on_where_it_stopped(tmp_path: Path):
    store = BlobStore(tmp_path)
    upload = store.open_upload(NAME, 0, len(DATA))
    upload.write(DATA[:1000])
    upload.close()
    assert not store.has(NAME)
    assert store.received_bytes(NAME) == 1000
    upload = store.open_upload(NAME, 1000, len(DATA))
    upload.write(DATA[1000:])
    upload.finish()
    assert store.read(NAME) == DATA
    assert store.received_bytes(NAME) == 0


def test_an_upload_with_a_gap_is_refused_and_told_where_to_go_on(tmp_path: Path):
    store = BlobStore(tmp_path)
    upload = store.open_upload(NAME, 0, len(DATA))
    upload.write(DATA[:10])
    upload.close()
    with pytest.raises(WrongOffset) as caught:
        store.open_upload(NAME, 20, len(DATA))
    assert caught.value.offset == 10


def test_an_upload_that_is_not_what_it_says_leaves_nothing_behind(tmp_path: Path):
    store = BlobStore(tmp_path)
    upload = store.open_upload(NAME, 0, None)
    upload.write(b"something else")
    with pytest.raises(Corrupt):
        upload.finish()
    assert not store.has(NAME)
    assert store.received_bytes(NAME) == 0


def test_a_blob_has_a_largest_size_announced_or_not(tmp_path: Path):
    store = BlobStore(tmp_path, max_blob_bytes=100)
    with pytest.raises(TooLarge):
        store.open_upload(NAME, 0, 101)
    upload = store.open_upload(NAME, 0, None)
    with pytest.raises(TooLarge):
        upload.write(bytes(101))
    upload.close()


def test_old_leftovers_of_uploads_go_and_fresh_ones_stay(tmp_path: Path):
    store = BlobStore(tmp_path)
    upload = store.open_upload(NAME, 0, None)
    upload.write(DATA[:10])
    upload.close()
    store.remove_stale_uploads(older_than_s=3600)
    assert store.received_bytes(NAME) == 10
    store.remove_stale_uploads(older_than_s=-1)
    assert store.received_bytes(NAME) == 0


def test_a_missing_blob_is_said_so(tmp_path: Path):
    with pytest.raises(Unknown, match="has no picture"):
        BlobStore(tmp_path).read(NAME)
