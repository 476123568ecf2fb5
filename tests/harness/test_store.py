"""What the store promises: nothing acknowledged is lost, nothing is torn, nothing is there twice, nothing leaves it."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness import files
from harness.store import Store, StoreError

KEY = "ab12" * 16
HOSTILE = [
    "../escape", "../../etc/passwd", "..", ".", "/etc/passwd", "//server/share", "\\\\server\\share", "C:\\x", "~/x",
    "a/b/c", "a\\b", "nul\0byte", "CON", "con", "CON.json", "NUL.txt", "com1", "LPT9.x", "aux", "x" * 300, "é" * 300,
    "\u2024\u2024/\u2215x", "\uff0e\uff0e\uff0f", "\u202egnp.exe", "", " ", "\n", "a\nb", "\ud800", "-rf", "--help",
    "$(touch x)", "`id`", ";ls", "|cat", "%2e%2e%2f", "*", "?", "<script>", '"', "'", ".hidden", ".tmp-1", "...",
    "a" * 99 + "/..", "\x1b[31m", "\u200b", "日本語", "emoji 🎲", ":stream", "file:///etc/passwd", "dot.", "trailing ",
]  # fmt: skip


def record(key=KEY, **more):
    return {"schema": 1, "kind": "answers", "key": key, "value": 1, **more}


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# -- one record


def test_published_record_comes_back(tmp_path):
    store = Store(tmp_path / "results")
    assert store.publish("answers", "sft > greedy", KEY, record())
    assert store.get("answers", KEY) == record()
    assert store.records("answers") == [record()]
    assert store.keys("answers") == {KEY}
    assert store.get("timing", KEY) is None
    assert tree(tmp_path / "results") == ["cells", f"cells/sft---greedy-{KEY}.json"]


def test_second_publisher_learns_that_it_came_second(tmp_path):
    store = Store(tmp_path)
    assert store.publish("answers", "a", KEY, record())
    assert not store.publish("answers", "a", KEY, record(value=2))
    assert not Store(tmp_path).publish("answers", "another-name", KEY, record(value=3))
    assert store.records("answers") == [record()]


def test_reading_an_empty_or_absent_store_makes_nothing(tmp_path):
    store = Store(tmp_path / "absent")
    assert store.records("answers") == []
    assert store.samples("g") == []
    assert store.attempts(KEY) == []
    assert store.stage(KEY) is None
    assert not (tmp_path / "absent").exists()


def test_records_come_in_one_order(tmp_path):
    keys = [f"{n:04x}" for n in range(50)]
    for number, order in enumerate((keys, keys[::-1])):
        store = Store(tmp_path / str(number))
        for key in order:
            store.publish("answers", "s", key, record(key))
    first, second = (Store(tmp_path / str(number)).records("answers") for number in range(2))
    assert first == second == [record(key) for key in keys]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_is_no_json_is_refused(tmp_path, value):
    with pytest.raises(StoreError, match="cannot be written as JSON"):
        Store(tmp_path).publish("answers", "s", KEY, record(value=value))
    assert tree(tmp_path) == []


@pytest.mark.parametrize("wrong", [{"key": "ff"}, {"kind": "timing"}, {"schema": 2}])
def test_a_record_must_be_what_it_is_published_as(tmp_path, wrong):
    with pytest.raises(StoreError):
        Store(tmp_path).publish("answers", "s", KEY, record(**wrong))


# -- torn, foreign and left over files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"s-{KEY}.json", b'{"schema": 1, "kind": "ans'),
        (f"s-{KEY}.json", b""),
        (f"s-{KEY}.json", b"\xff\xfe"),
        (f"s-{KEY}.json", b"[]"),
        (f"s-{KEY}.json", b"[" * 100_000),
        (f"s-{KEY}.json", b'{"schema": 1, "kind": "answers", "key": "00"}'),
        (f"s-{KEY}.json", json.dumps({**record(), "schema": 99}).encode()),
        (f"s-{KEY}.json", json.dumps({**record(), "value": float("nan")}).encode()),
        ("notes.txt", b"hello"),
        ("records.json", b"{}"),
    ],
)
def test_torn_and_foreign_files_are_named(tmp_path, name, content):
    store = Store(tmp_path)
    store.publish("answers", "good", "00aa", record("00aa"))
    (tmp_path / "cells" / name).write_bytes(content)
    with pytest.raises(StoreError, match=name) as error:
        store.records("answers")
    assert "\n" not in str(error.value)


def test_two_files_of_one_key_are_an_error(tmp_path):
    store = Store(tmp_path)
    store.publish("answers", "a", KEY, record())
    (tmp_path / "cells" / f"b-{KEY}.json").write_text(json.dumps(record()))
    with pytest.raises(StoreError, match="second record"):
        store.records("answers")


def test_temporary_files_are_passed_over_and_swept_after_an_hour(tmp_path):
    Store(tmp_path).publish("answers", "s", KEY, record())
    old, young = tmp_path / "cells" / ".tmp-1-aa", tmp_path / "cells" / ".tmp-2-bb"
    for path in (old, young):
        path.write_text("{")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    store = Store(tmp_path)
    assert store.records("answers") == [record()]
    assert old.exists()  # a reader removes nothing
    store.publish("answers", "s", "cc", record("cc"))
    assert not old.exists()
    assert young.exists()


# -- hostile names


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside(tmp_path, name):
    root = tmp_path / "results"
    store = Store(root)
    assert store.publish("answers", name, KEY, record())
    assert store.publish_samples(name, [{"row": name.encode("utf-8", "replace").decode()}])
    assert len(store.samples(name)) == 1
    store.log_path(name, KEY).write_text("log")
    assert store.records("answers") == [record()]
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    for path in root.rglob("*"):
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", path.name)
        assert path.name.split(".")[0].upper() not in files._RESERVED
        assert len(path.name) <= 200


@pytest.mark.parametrize("key", [*(name for name in HOSTILE if name), "", "AB", "g", "a" * 65, "ab\n"])
def test_hostile_keys_are_refused(tmp_path, key):
    store = Store(tmp_path)
    calls = [
        lambda: store.publish("answers", "s", key, record(key)),
        lambda: store.get("answers", key),
        lambda: store.publish_stage(key, lambda folder: None, {}),
        lambda: store.stage(key),
        lambda: store.attempt(record(key)),
        lambda: store.attempts(key),
        lambda: store.log_path("s", key),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="is no key"):
            call()
    assert tree(tmp_path) == []


@pytest.mark.parametrize("folder", ["cells", "stages", "samples", "attempts", "logs"])
def test_a_link_that_leads_out_is_not_followed(tmp_path, folder):
    outside, root = tmp_path / "outside", tmp_path / "results"
    outside.mkdir()
    root.mkdir()
    (root / folder).symlink_to(outside)
    store = Store(root)
    calls = {
        "cells": lambda: store.publish("answers", "s", KEY, record()),
        "stages": lambda: store.publish_stage(KEY, lambda path: (path / "w").write_text("x"), {}),
        "samples": lambda: store.publish_samples("g", [{}]),
        "attempts": lambda: store.attempt(record()),
        "logs": lambda: store.log_path("s", KEY),
    }
    with pytest.raises(StoreError, match="leads out"):
        calls[folder]()
    assert list(outside.iterdir()) == []


def test_a_linked_record_is_neither_read_nor_written_through(tmp_path):
    secret, root = tmp_path / "secret.json", tmp_path / "results"
    secret.write_text(json.dumps(record()))
    (root / "cells").mkdir(parents=True)
    (root / "cells" / f"s-{KEY}.json").symlink_to(secret)
    store = Store(root)
    for call in (lambda: store.get("answers", KEY), lambda: store.publish("answers", "s", KEY, record(value=2))):
        with pytest.raises(StoreError, match="leads out"):
            call()
    assert json.loads(secret.read_text()) == record()


def test_a_results_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = Store(tmp_path / "link")
    assert store.publish("answers", "s", KEY, record())
    assert store.get("answers", KEY) == record()


# -- disks that refuse


def refuse(monkeypatch, module, name, code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, name, fail)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["link", "fsync"])
def test_a_disk_that_refuses_publishes_nothing(tmp_path, monkeypatch, code, call):
    store = Store(tmp_path)
    store.publish("answers", "s", "00", record("00"))
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        refuse(patch, os, call, code)
        with pytest.raises(StoreError) as error:
            store.publish("answers", "s", KEY, record())
    assert os.strerror(code) in str(error.value)
    assert KEY in str(error.value)
    assert "\n" not in str(error.value)
    assert tree(tmp_path) == before
    assert store.publish("answers", "s", KEY, record())  # and goes on once there is room


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "results").write_text("I am a file")
    store = Store(tmp_path / "results")
    calls = (
        lambda: store.publish("answers", "s", KEY, record()),
        lambda: store.records("answers"),
        lambda: store.attempt(record()),
        lambda: files.write_atomically(tmp_path / "results" / "x.md", b""),
    )
    for call in calls:
        with pytest.raises(StoreError, match="results") as error:
            call()
        assert "\n" not in str(error.value)


def test_a_file_size_limit_tears_nothing(tmp_path):
    code = f"""
import resource, sys
from harness.store import Store, StoreError
store = Store({str(tmp_path)!r})
store.publish("answers", "small", "00", {{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
refused = 0
for call in (
    lambda: store.publish("answers", "big", "01", {{"text": "x" * 100_000}}),
    lambda: store.publish_stage("02", lambda folder: (folder / "weights").write_bytes(b"x" * 100_000), {{}}),
    lambda: store.publish_stage("03", lambda folder: (folder / "w").write_bytes(b"x"), {{"curve": ["x" * 99_000]}}),
    lambda: store.attempt({{"kind": "answers", "key": "04", "log": "x" * 100_000}}),
):
    try:
        call()
    except StoreError as error:
        assert "File too large" in str(error) and "\\n" not in str(error), error
        refused += 1
sys.exit(refused)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 4
    store = Store(tmp_path)
    assert [found["key"] for found in store.records("answers")] == ["00"]
    assert store.records("stage") == []
    assert [name for name in tree(tmp_path) if "stages/" in name or ".tmp-" in name] == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_without_hard_links_it_is_still_once_and_whole(tmp_path, monkeypatch, code):
    refuse(monkeypatch, os, "link", code)
    store = Store(tmp_path)
    won = []

    def race(number):
        won.append(files.publish(tmp_path / "cells" / f"s-{KEY}.json", json.dumps(record(value=number)).encode()))

    store.publish("answers", "s", "00", record("00"))
    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert len(store.records("answers")) == 2
    assert not store.publish("answers", "s", KEY, record())
    assert [name for name in tree(tmp_path) if ".tmp-" in name] == []


@pytest.mark.parametrize("wins", [True, False])
def test_a_live_claim_is_waited_for(tmp_path, monkeypatch, wins):
    refuse(monkeypatch, os, "link", errno.EPERM)
    path, claim = tmp_path / f"s-{KEY}.json", tmp_path / f".tmp-claim-s-{KEY}.json"
    claim.write_text("")

    def other():
        if not wins:
            path.write_text("theirs")
        claim.unlink()

    timer = threading.Timer(0.2, other)
    timer.start()
    assert files.publish(path, b"ours") is wins
    timer.join()
    assert path.read_text() == ("ours" if wins else "theirs")


def test_a_dead_claim_is_said_and_not_stolen(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "link", errno.EPERM)
    monkeypatch.setattr(files, "_CLAIM_WAIT_S", 0.1)
    (tmp_path / f".tmp-claim-s-{KEY}.json").write_text("")
    with pytest.raises(StoreError, match="File exists"):
        files.publish(tmp_path / f"s-{KEY}.json", b"{}")


# -- stages


def weights(text="weights"):
    def write(folder):
        (folder / "model.safetensors").write_bytes(text.encode() * 100)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "config.json").write_text("{}")

    return write


def test_stage_comes_back_with_its_facts(tmp_path):
    store = Store(tmp_path)
    assert store.publish_stage(KEY, weights(), {"seconds": 2.5, "ledger": {"trained_tokens": 7}, "curve": [1]})
    folder, facts = store.stage(KEY)
    assert (folder / "adapter" / "config.json").read_text() == "{}"
    assert facts["seconds"] == 2.5
    assert sorted(facts["files"]) == ["adapter/config.json", "model.safetensors"]
    assert store.records("stage") == [facts]
    assert store.keys("stage") == {KEY}


def test_second_stage_leaves_the_first(tmp_path):
    store = Store(tmp_path)
    assert store.publish_stage(KEY, weights("one"), {})

    def late(folder):
        pytest.fail("what is there need not be written")

    assert not store.publish_stage(KEY, late, {})
    assert store.stage(KEY)[0].joinpath("model.safetensors").read_text().startswith("one")


def test_stages_published_at_once_never_mix(tmp_path):
    store, barrier, won = Store(tmp_path), threading.Barrier(4), []

    def race(name):
        def write(folder):
            weights(name)(folder)
            barrier.wait()  # every writer is past the first look

        won.append((store.publish_stage(KEY, write, {"who": name}), name))

    threads = [threading.Thread(target=race, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [name for first, name in won if first]
    folder, facts = store.stage(KEY)
    assert facts["who"] == winner
    assert folder.joinpath("model.safetensors").read_text() == winner * 100
    assert len(list((tmp_path / "stages").iterdir())) == 2  # the losers' folders are gone


def test_a_stage_that_cannot_be_written_does_not_exist(tmp_path):
    def write(folder):
        (folder / "half").write_text("x")
        msg = "I/O error: No space left on device (os error 28)"
        raise RuntimeError(msg)

    with pytest.raises(StoreError, match=r"RuntimeError: I/O error: No space left"):
        Store(tmp_path).publish_stage(KEY, write, {})
    assert tree(tmp_path) == ["stages"]


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "add", "link", "folder"])
def test_a_changed_checkpoint_is_rejected(tmp_path, harm):
    store = Store(tmp_path)
    store.publish_stage(KEY, weights(), {})
    folder, _ = store.stage(KEY)
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[350] ^= 1
        path.write_bytes(content)
    elif harm == "cut":
        path.write_bytes(content[:-1])
    elif harm == "remove":
        path.unlink()
    elif harm == "add":
        (folder / "pytorch_model.bin").write_text("pickle")
    elif harm == "link":
        path.unlink()
        path.symlink_to("/etc/hostname")
    else:
        manifest = tmp_path / "stages" / f"{KEY}.json"
        manifest.write_text(manifest.read_text().replace(folder.name, "../../elsewhere"))
    with pytest.raises(StoreError, match="stages"):
        store.stage(KEY)


def test_orphan_checkpoints_are_swept_and_published_ones_kept(tmp_path):
    Store(tmp_path).publish_stage(KEY, weights(), {})
    orphan = tmp_path / "stages" / f"{'cd' * 8}-{'0' * 16}"
    orphan.mkdir()
    (orphan / "w").write_text("x")
    for path in [tmp_path / "stages", *(tmp_path / "stages").rglob("*")]:
        os.utime(path, (1, 1))
    store = Store(tmp_path)
    store.publish_stage("ee", weights(), {})
    assert not orphan.exists()
    assert store.stage(KEY) is not None


# -- samples and attempts


def test_samples_of_all_shards_come_back(tmp_path):
    store = Store(tmp_path)
    assert store.publish_samples("g", [{"i": 1}, {"i": 2, "text": "line\nbreak \u2028 \ud800"}])
    assert store.publish_samples("g", [{"i": 3}])
    assert not Store(tmp_path).publish_samples("g", [{"i": 3}])
    assert sorted(row["i"] for row in store.samples("g")) == [1, 2, 3]
    assert store.samples("g") == Store(tmp_path).samples("g")
    assert store.samples("other") == []


@pytest.mark.parametrize("harm", ["cut", "flip", "foreign"])
def test_a_broken_shard_is_named_not_skipped(tmp_path, harm):
    store = Store(tmp_path)
    store.publish_samples("g", [{"i": i} for i in range(100)])
    [path] = (tmp_path / "samples" / "g").iterdir()
    content = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    else:
        path = path.with_name("x.jsonl.gz")
        path.write_bytes(content)
    with pytest.raises(StoreError, match=path.name):
        store.samples("g")


def test_attempts_are_numbered_and_kept(tmp_path):
    store = Store(tmp_path)
    for n in range(1, 12):
        assert store.attempt({"kind": "answers", "key": KEY, "status": "crashed", "reason": f"try {n}"}) == n
    assert [found["n"] for found in Store(tmp_path).attempts(KEY)] == list(range(1, 12))
    assert store.attempted() == [KEY]
    with pytest.raises(StoreError):
        store.attempt({"kind": "other", "key": KEY})


# -- several processes, and death


WRITER = """
import sys, time
from harness.store import Store
store, out = Store(sys.argv[1]), sys.stdout
for n in range(10_000):
    key = f"{int(sys.argv[2]) * 100_000 + n:016x}"
    record = {"n": n, "text": "x" * (n * 7919 % 200_000)}
    if n % 5 == 4:
        done = store.publish_stage(key, lambda folder: (folder / "w").write_text("y" * 50_000), record)
    elif n % 5 == 3:
        done = bool(store.attempt({"kind": "answers", "key": key, **record}))
    else:
        done = store.publish("answers", "cell", key, record)
    assert done
    out.write(f"{n % 5} {key}\\n")
    out.flush()
"""


def test_kill_loses_nothing_that_was_acknowledged(tmp_path):
    """RELIABILITY 1: kill -9 at 20 random points; what was said to be published is there, whole, once."""
    rng, acknowledged = random.Random(7), []
    for life in range(20):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(life)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline()  # it writes by now
            time.sleep(rng.uniform(0.0, 0.15))
            os.kill(writer.pid, signal.SIGKILL)
            rest = writer.stdout.read()
        acknowledged += [line.split() for line in [f"0 {life * 100_000:016x}", *rest.splitlines()]]
    store = Store(tmp_path)
    answers, stages = store.records("answers"), store.records("stage")  # a torn file or a duplicate would raise
    found = {record["key"] for record in (*answers, *stages)}
    lost = [key for kind, key in acknowledged if kind != "3" and key not in found]
    lost += [key for kind, key in acknowledged if kind == "3" and len(store.attempts(key)) != 1]
    assert lost == []
    assert len(acknowledged) > 40
    assert all(len(record["text"]) == record["n"] * 7919 % 200_000 for record in (*answers, *stages))
    assert all(store.stage(record["key"]) is not None for record in stages)
    assert len(found) <= len(acknowledged) + 20  # at most the one in flight of each life beyond those


RACER = """
import random, sys
from harness.store import Store
store, keys = Store(sys.argv[1]), [f"{n:08x}" for n in range(60)]
random.Random(int(sys.argv[2])).shuffle(keys)
sys.stdin.readline()
print(sum(store.publish("answers", f"cell-{key}", key, {"who": sys.argv[2]}) for key in keys))
print(sum(store.publish_samples("shared", [{"key": key}]) for key in keys))
print([store.attempt({"kind": "answers", "key": "ff", "who": sys.argv[2]}) for _ in range(10)])
"""


def test_four_processes_publish_each_key_once(tmp_path):
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    racers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for n in range(4)
    ]
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=60)[0].splitlines() for racer in racers]
    assert all(racer.returncode == 0 for racer in racers)
    store = Store(tmp_path)
    assert sum(int(lines[0]) for lines in outputs) == 60 == len(store.records("answers"))
    assert sum(int(lines[1]) for lines in outputs) == 60 == len(store.samples("shared"))
    assert sorted(n for lines in outputs for n in json.loads(lines[2])) == list(range(1, 41))
    assert [found["n"] for found in store.attempts("ff")] == list(range(1, 41))
    assert not list(Path(tmp_path).rglob(".tmp-*"))
