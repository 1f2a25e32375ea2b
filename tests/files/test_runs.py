"""The run folder: new ones never touch old ones; logs are cut, files replaced whole."""

import errno
import json
import os

import pytest

from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.run import RunFolder
from undiffuse.files.writing import check_file, check_writable, file_kind, whole, write_text


def line(step: int) -> str:
    return json.dumps({"step": step, "loss": 1.0}) + "\n"


def test_folders_without_a_name_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [str(RunFolder.create(None, "digits").path) for _ in range(3)]
    assert made == ["runs/digits", "runs/digits-2", "runs/digits-3"]


@pytest.mark.parametrize("kind", ["folder", "file", "full folder"])
def test_an_explicit_folder_that_exists_is_refused_and_left_alone(tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
    if kind == "full folder":
        (out / "x").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="exists already; choose another --out"):
        RunFolder.create(out, "x")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_under_a_file_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UndiffuseError, match=r"cannot be created .*choose another --out"):
        RunFolder.create(tmp_path / "file" / "run", "x")
    with pytest.raises(UndiffuseError, match=r"cannot be written .*choose another --out"):
        check_writable(tmp_path / "file")


def test_a_dangling_link_is_not_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UndiffuseError, match=r"cannot be created"):
        RunFolder.create(tmp_path / "link", "x")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["with space", "ünïcödé-数", "a.b", "-x"])
def test_names_of_any_letters(tmp_path, name):
    run = RunFolder.create(tmp_path / "deep" / name, "x")
    write_text(run.config, "seed: 0\n")
    assert RunFolder.open(tmp_path / "deep" / name).samples.is_dir()


@pytest.mark.parametrize("what", ["nothing", "empty folder", "file", "folder for a config"])
def test_what_is_no_run_folder_is_refused(tmp_path, what):
    path = tmp_path / "x"
    if what == "file":
        path.write_text("")
    elif what != "nothing":
        path.mkdir()
    if what == "folder for a config":
        (path / "config.yaml").mkdir()
    with pytest.raises(UndiffuseError, match=r"not a run folder \(it has no config.yaml\)"):
        RunFolder.open(path)


def test_metrics_after_the_step_are_forgotten(tmp_path):
    run = RunFolder(tmp_path)
    for step in (2, 4, 6, 10):
        run.log({"step": step, "loss": 1.0})
    run.cut_logs(6)
    assert run.metrics.read_text() == line(2) + line(4) + line(6)
    run.cut_logs(0)
    assert run.metrics.read_text() == ""


@pytest.mark.parametrize(
    "tail", ['{"step": 6, "lo', '{"step": 6', "{", "\n", "junk", "[1]", '{"step": "x"}', "\x00\x00"]
)
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, tail):
    run = RunFolder(tmp_path)
    run.metrics.write_text(line(2) + line(4) + tail)
    run.cut_logs(100)
    assert run.metrics.read_text() == line(2) + line(4)
    run.log({"step": 6, "loss": 1.0})
    assert run.metrics.read_text().endswith(line(6))


def test_a_log_of_binary_garbage_is_no_obstacle(tmp_path):
    run = RunFolder(tmp_path)
    run.metrics.write_bytes(line(2).encode() + b"\xff\xfe\x80\n" + line(4).encode())
    run.cut_logs(9)
    assert run.metrics.read_text() == line(2) + line(4)


def test_no_log_nothing_to_cut(tmp_path):
    RunFolder(tmp_path).cut_logs(3)
    assert not any(tmp_path.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_text(path, "old")

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_text(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert path.read_text() == "new"


def test_what_a_kill_left_aside_is_no_hindrance(tmp_path):
    (tmp_path / ".x.writing").mkdir()
    (tmp_path / ".x.writing" / "half").touch()
    with whole(tmp_path / "x") as aside:
        aside.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and not any((tmp_path / "x").iterdir())


def test_what_a_link_leads_to_is_written_and_the_link_stays(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "x.json").symlink_to("far/y.json")
    for text in ("new", "newer"):
        write_text(tmp_path / "x.json", text)
        assert (tmp_path / "x.json").is_symlink() and (tmp_path / "far" / "y.json").read_text() == text
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["y.json"]


def test_a_pipe_is_not_replaced(tmp_path):
    """Nor a device, which a superuser could: /dev/null as a file of 70 bytes breaks the system."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("pipe.json")
    for name in ("pipe.json", "link.json"):
        with pytest.raises(UsageError, match="is a device or a pipe"):
            write_text(tmp_path / name, "x")
        with pytest.raises(UsageError, match="is a device or a pipe"):
            check_file(tmp_path / name)
    assert (tmp_path / "pipe.json").is_fifo()


def test_a_link_to_itself_gives_way(tmp_path):
    (tmp_path / "x.json").symlink_to("x.json")
    write_text(tmp_path / "x.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.json", "new")]


def test_a_full_disk_names_the_file(tmp_path):
    """The system says no name when a write fails; another file's name is left as it is."""
    with pytest.raises(OSError, match="full") as error, whole(tmp_path / "x.png") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, "full")
    assert error.value.filename == str(tmp_path / "x.png") and not any(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError) as error, whole(tmp_path / "x.png"):
        (tmp_path / "none").read_text()
    assert error.value.filename == str(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "kind"), [("x.PNG", ".png"), ("x", ""), ("eta0.5", ""), ("v1.2", ""), ("there.png", ""), ("x.5a", ".5a")]
)
def test_a_number_is_no_type_of_file(tmp_path, name, kind):
    (tmp_path / "there.png").mkdir()
    assert file_kind(tmp_path / name) == kind
