"""What the metadata store does about files that are not as it left them."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from takhin import errors, metadata_files
from takhin.clock import ManualClock
from takhin.metadata import Metadata


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database that was closed in order: one topic, one committed offset, one log start."""
    path = tmp_path / "data" / "metadata.db"
    path.parent.mkdir()
    metadata = Metadata(path, ManualClock())
    metadata.open()
    topic_id = metadata.create_topic("logs", 1, {}).topic_id
    metadata.commit_offsets("g", [(topic_id, 0, 1000)])
    metadata.set_log_start_offsets([(topic_id, 0, 500)])
    metadata.close()
    return path


def refusal(path: Path) -> errors.MetadataDamaged:
    """What ``open`` says; a refused database is left as it was, and refused again."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name != path.name}
    messages = []
    for _ in range(2):
        with pytest.raises(errors.MetadataDamaged) as caught:
            Metadata(path, ManualClock()).open()
        messages.append(caught.value.message)
    assert messages[0] == messages[1]
    assert str(path) in messages[0]
    assert "segments are untouched" in messages[0].lower()
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name != path.name} == before
    return caught.value


def change(path: Path, statement: str, *parameters: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, parameters)
    connection.close()


def live_copy(path: Path, to: Path) -> Path:
    """The files as a kill at this moment would leave them."""
    to.mkdir()
    for file in path.parent.iterdir():
        shutil.copyfile(file, to / file.name)
    return to / path.name


def opened(path: Path) -> Metadata:
    metadata = Metadata(path, ManualClock())
    metadata.open()
    return metadata


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough for a header" * 100)
    assert "move every file" in refusal(path).message


def test_an_empty_file_is_refused(path: Path) -> None:
    path.write_bytes(b"")
    refusal(path)


def test_a_truncated_database_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:8192])
    refusal(path)


def test_another_programs_database_is_refused(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE songs (title TEXT)")
    refusal(path)


def test_a_newer_format_is_refused_by_name(path: Path) -> None:
    change(path, "PRAGMA user_version = 2")
    assert "format 2" in refusal(path).message


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE topics SET name = 'logz'",
        "UPDATE committed_offsets SET committed_offset = 1001",
        "UPDATE log_starts SET log_start_offset = 501",
        "UPDATE counters SET value = 1000",
        "UPDATE committed_offsets SET group_id = 'h'",
        "UPDATE committed_offsets SET committed_offset = '1000x'",
        "UPDATE committed_offsets SET committed_offset = x'01'",
        "UPDATE topics SET name = CAST(x'ff6f6773' AS TEXT)",
        "UPDATE state SET commits = commits + 1",
        "UPDATE state SET server_id = replace(server_id, substr(server_id, 1, 1), 'g')",
        "DELETE FROM committed_offsets",
        "DELETE FROM state",
        "INSERT INTO committed_offsets SELECT group_id || '2', topic_id, partition, committed_offset, crc "
        "FROM committed_offsets",
        "ALTER TABLE topics RENAME COLUMN name TO title",
        "CREATE TABLE foreigners (id INTEGER)",
        "CREATE TRIGGER surprise AFTER UPDATE ON topics BEGIN DELETE FROM topics; END",
        "PRAGMA journal_mode = DELETE",
    ],
)
def test_rows_that_were_not_committed_by_the_store_are_refused(path: Path, statement: str) -> None:
    change(path, statement)
    refusal(path)


def test_an_older_row_with_a_good_checksum_is_refused(path: Path) -> None:
    """As when a page of the database never reached the disk."""
    connection = sqlite3.connect(path)
    (old,) = connection.execute("SELECT * FROM committed_offsets").fetchall()
    connection.close()
    metadata = opened(path)
    metadata.commit_offsets("g", [(old[1], 0, 2000)])
    metadata.close()
    change(path, "REPLACE INTO committed_offsets VALUES (?, ?, ?, ?, ?)", *old)
    assert "committed last" in refusal(path).message


def test_an_older_copy_of_the_database_is_refused_until_the_witness_is_removed(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup.db"
    shutil.copyfile(path, backup)
    metadata = opened(path)
    metadata.create_topic("newer", 1, {})
    metadata.close()
    shutil.copyfile(backup, path)
    error = refusal(path)
    assert "metadata.db-commits" in error.message
    assert int(error.fields["acknowledged"]) == int(error.fields["commits"]) + 1
    path.with_name("metadata.db-commits").unlink()
    metadata = opened(path)
    assert [topic.name for topic in metadata.topics()] == ["logs"]
    metadata.close()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 36, b"\xff" * 5000])
def test_a_witness_that_cannot_be_read_is_ignored(path: Path, content: bytes) -> None:
    path.with_name("metadata.db-commits").write_bytes(content)
    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    metadata.close()
    assert path.with_name("metadata.db-commits").stat().st_size == 36


def test_a_witness_that_cannot_be_written_is_no_reason_to_stop(path: Path) -> None:
    path.with_name("metadata.db-commits").unlink()
    path.with_name("metadata.db-commits").mkdir()
    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    metadata.close()


def test_a_database_that_went_missing_is_not_made_anew(path: Path) -> None:
    path.unlink()
    assert "is missing" in refusal(path).message
    assert not path.exists()


def test_a_fresh_start_is_possible_once_all_is_moved_aside(path: Path) -> None:
    for file in path.parent.glob("metadata.db*"):
        file.rename(file.with_name("aside-" + file.name))
    metadata = opened(path)
    assert metadata.topics() == []
    metadata.close()


def test_a_flipped_bit_in_the_write_ahead_log_does_not_take_commits_back(path: Path, tmp_path: Path) -> None:
    metadata = opened(path)
    for number in range(5):
        metadata.create_topic(f"t{number}", 1, {})
    copy = live_copy(path, tmp_path / "killed")
    metadata.close()
    wal = copy.with_name("metadata.db-wal")
    data = bytearray(wal.read_bytes())
    data[32 + 3 * (24 + 4096) + 1000] ^= 0x10  # in the fourth frame
    wal.write_bytes(data)
    assert "were acknowledged" in refusal(copy).message
    # The log is still whole: undoing the flip brings everything back.
    data[32 + 3 * (24 + 4096) + 1000] ^= 0x10
    wal.write_bytes(data)
    restored = opened(copy)
    assert len(restored.topics()) == 6
    restored.close()


def test_a_lost_write_ahead_log_is_noticed(path: Path, tmp_path: Path) -> None:
    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    copy = live_copy(path, tmp_path / "killed")
    metadata.close()
    copy.with_name("metadata.db-wal").unlink()
    refusal(copy)


def test_a_torn_tail_of_the_write_ahead_log_is_no_damage(path: Path, tmp_path: Path) -> None:
    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    copy = live_copy(path, tmp_path / "killed")
    expected = metadata.topics()
    metadata.close()
    wal = copy.with_name("metadata.db-wal")
    data = wal.read_bytes()
    end = len(data.rstrip(b"\0"))
    wal.write_bytes(data[:end] + b"torn frame of a commit that nobody was told of" * 100)
    restored = opened(copy)
    assert restored.topics() == expected
    restored.close()


def test_a_start_that_was_cut_off_between_check_and_repair_is_taken_up(path: Path, tmp_path: Path) -> None:
    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    copy = live_copy(path, tmp_path / "killed")
    expected = metadata.topics()
    metadata.close()
    copy.with_name("metadata.db-wal").rename(copy.with_name("metadata.db-wal.kept"))
    restored = opened(copy)
    assert restored.topics() == expected
    assert not copy.with_name("metadata.db-wal.kept").exists()
    restored.close()


def test_a_log_that_cannot_be_linked_is_copied(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no hard links here")

    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    copy = live_copy(path, tmp_path / "killed")
    metadata.close()
    monkeypatch.setattr(metadata_files.os, "link", refuse)
    copy.with_name("metadata.db-wal").write_bytes(b"\0" + copy.with_name("metadata.db-wal").read_bytes()[1:])
    refusal(copy)


def test_the_making_of_a_database_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "new-metadata.db").write_bytes(b"half")
    (tmp_path / "new-metadata.db-wal").write_bytes(b"half")
    metadata = opened(tmp_path / "metadata.db")
    metadata.close()
    assert not list(tmp_path.glob("new-*"))


def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(errors.MetadataDamaged, match="cannot be used"):
        Metadata(tmp_path / "missing" / "metadata.db", ManualClock()).open()


def test_after_an_unclean_stop_all_is_carried_into_the_database_before_anybody_is_answered(
    path: Path, tmp_path: Path
) -> None:
    metadata = opened(path)
    metadata.create_topic("more", 1, {})
    copy = live_copy(path, tmp_path / "killed")
    expected = metadata.topics()
    metadata.close()
    restored = opened(copy)
    (tmp_path / "alone").mkdir()
    shutil.copyfile(copy, tmp_path / "alone" / copy.name)  # without its log
    restored.close()
    alone = opened(tmp_path / "alone" / copy.name)
    assert alone.topics() == expected
    alone.close()
