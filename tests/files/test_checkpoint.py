"""Checkpoints come back bit by bit; are whole or absent; and say in one line what is wrong with them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from undiffuse.errors import UndiffuseError
from undiffuse.files import checkpoint
from undiffuse.files.checkpoint import Snapshot
from undiffuse.rng import fold
from undiffuse.train.state import fill_optimizer, optimizer_tensors

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.int64]


def snapshot(step=7, seed=0) -> Snapshot:
    draw = fold(seed, "weights").normal((4, 3, 2))
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
    tensors = {"a.b": draw, "slice": draw[:, 1], "odd": odd, "scalar": torch.tensor(3.0)}
    tensors |= {str(dtype): (draw * 9).to(dtype) for dtype in DTYPES}
    return Snapshot({"backbone": tensors, "ema": {"w": -draw}}, {"step": step, "skipped": 2, "streak": 1})


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def saved(folder, module: nn.Module, step=7):
    return checkpoint.save(folder, Snapshot({"ema": module.state_dict()}, {"step": step}))


def refused(words: str):
    return pytest.raises(UndiffuseError, match=words)


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def test_tensors_and_state_come_back_bit_by_bit(tmp_path):
    folder = checkpoint.save(tmp_path / "checkpoints", snapshot())
    assert folder.name == "00000007"
    for group, tensors in snapshot().tensors.items():
        found = checkpoint.load_tensors(folder, group)
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype
            assert bits(found[name]) == bits(value)
    state = checkpoint.load_state(folder)
    assert state.pop("digests").keys() == {"backbone.safetensors", "ema.safetensors"}
    assert state == {"format_version": 1, "step": 7, "skipped": 2, "streak": 1}


def test_only_safetensors_and_json_are_written_and_nothing_is_left_aside(tmp_path):
    checkpoint.save(tmp_path, snapshot())
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "00000007", "backbone.safetensors", "ema.safetensors", "state.json"
    ]  # fmt: skip


@pytest.mark.parametrize(("victim", "after"), [("save_file", 0), ("save_file", 1), ("sync", 0), ("sync", 3)])
def test_a_kill_in_the_middle_leaves_the_old_one(tmp_path, monkeypatch, victim, after):
    """Of this step and of earlier ones."""
    for step in (3, 7):
        checkpoint.save(tmp_path, snapshot(step))
    real, calls = getattr(checkpoint, victim), []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(checkpoint, victim, killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, snapshot(7, seed=1))
    monkeypatch.undo()
    assert checkpoint.steps(tmp_path) == [3, 7]
    assert torch.equal(checkpoint.load_tensors(checkpoint.find(tmp_path), "ema")["w"], snapshot().tensors["ema"]["w"])
    again = checkpoint.save(tmp_path, snapshot(7, seed=1))
    assert torch.equal(checkpoint.load_tensors(again, "ema")["w"], snapshot(seed=1).tensors["ema"]["w"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000003", "00000007"]


def test_no_name_is_ever_half_a_checkpoint_while_one_replaces_another(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, snapshot(3))
    checkpoint.save(tmp_path, snapshot(7))
    real = shutil.rmtree

    def watched(path, ignore_errors=False):
        assert path.name not in ("00000003", "00000007")
        real(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", watched)
    checkpoint.save(tmp_path, snapshot(7, seed=1))


def test_what_is_not_a_checkpoint_is_ignored(tmp_path):
    checkpoint.save(tmp_path, snapshot(7))
    for name in (".00000009.writing", "00000011", "x", "5", "²", "٠٠٠٠٠٠٠٩", "00000009.writing", "-0000009"):
        (tmp_path / name).mkdir()
        if name != "00000011":
            (tmp_path / name / "state.json").write_text("{}")
    (tmp_path / "00000012").write_text("a file")
    assert checkpoint.steps(tmp_path) == [7]
    assert checkpoint.find(tmp_path).name == "00000007"


def test_the_last_is_the_last_by_number(tmp_path):
    for step in (123456789, 99999999, 5):
        checkpoint.save(tmp_path, snapshot(step))
    assert checkpoint.steps(tmp_path) == [5, 99999999, 123456789]
    assert checkpoint.find(tmp_path).name == "123456789"
    assert checkpoint.find(tmp_path, "5").name == checkpoint.find(tmp_path, "00000005").name == "00000005"


@pytest.mark.parametrize("which", ["4", "-1", "", "x", "²", "7.0", "../7", "best"])
def test_a_checkpoint_that_is_not_there(tmp_path, which):
    checkpoint.save(tmp_path / "checkpoints", snapshot(7))
    with refused("no checkpoint|no best checkpoint") as error:
        checkpoint.find(tmp_path / "checkpoints", which)
    one_line(error)


def test_an_empty_folder_has_none(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert checkpoint.steps(folder) == []
        with refused("no checkpoint here yet"):
            checkpoint.find(folder)


@pytest.mark.parametrize("keep", [0, 5, 0.5, -1])
def test_a_truncated_file_is_named(tmp_path, keep):
    folder = checkpoint.save(tmp_path, snapshot())
    path = folder / "ema.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with refused("ema.safetensors: truncated or not a safetensors file") as error:
        checkpoint.load_tensors(folder, "ema")
    one_line(error)


@pytest.mark.parametrize("content", [b"\x80\x04pickle", b"\xff" * 400, b"{}", b"PK\x03\x04" + b"0" * 99])
def test_a_foreign_file_is_named(tmp_path, content):
    folder = checkpoint.save(tmp_path, snapshot())
    (folder / "ema.safetensors").write_bytes(content)
    with refused("ema.safetensors: truncated or not a safetensors file") as error:
        checkpoint.load_tensors(folder, "ema")
    one_line(error)


def test_a_missing_file_is_named(tmp_path):
    folder = checkpoint.save(tmp_path, snapshot())
    (folder / "ema.safetensors").unlink()
    with refused(r"00000007: has no ema\.safetensors"):
        checkpoint.load_tensors(folder, "ema")


def test_own_weights_fill_a_network(tmp_path):
    source, target = network(), network()
    folder = saved(tmp_path, source)
    checkpoint.fill(target, checkpoint.load_tensors(folder, "ema"), folder)
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.pop("1.bias"), "'1.bias' is missing"),
        (lambda w: w.update({"0.weight": torch.zeros(2, 3)}), r"'0.weight' is \[2, 3\] in place of \[3, 2\]"),
        (lambda w: w.update({"2.weight": torch.zeros(1)}), "'2.weight' is not in this one"),
        (lambda w: w.clear(), "is missing"),
    ],
)
def test_foreign_weights_are_refused_and_change_nothing(tmp_path, spoil, words):
    folder, target = saved(tmp_path, network()), network()
    weights = load_file(folder / "ema.safetensors")
    spoil(weights)
    save_file(weights, folder / "ema.safetensors")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with refused(f"00000007: weights of another network: .*{words}") as error:
        checkpoint.fill(target, checkpoint.load_tensors(folder, "ema"), folder)
    one_line(error)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


STATES = [
    b"", b"{", b"[1]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"format_version": null}',
    b'{"format_version": "1", "step": 7}', b'{"format_version": 1, "step": "x"}', b'{"format_version": 1, "step": -7}',
    b'{"format_version": 1, "step": 7, "skipped": 1.5}', b'{"format_version": 1, "step": NaN}',
    b'{"format_version": 1, "step": 7, "streak": true}', b'{"format_version": true, "step": 7}',
]  # fmt: skip


@pytest.mark.parametrize("content", STATES)
def test_a_broken_state_is_named(tmp_path, content):
    folder = checkpoint.save(tmp_path, snapshot())
    (folder / "state.json").write_bytes(content)
    with refused(r"state\.json: not a checkpoint's state") as error:
        checkpoint.load_state(folder)
    one_line(error)


def test_a_state_of_another_step_is_refused(tmp_path):
    folder = checkpoint.save(tmp_path, snapshot(7))
    moved = folder.rename(tmp_path / "00000009")
    with refused("is of step 7, its folder is not"):
        checkpoint.load_state(moved)


def test_a_newer_format_is_refused(tmp_path):
    folder = checkpoint.save(tmp_path, snapshot())
    (folder / "state.json").write_text(json.dumps({"format_version": 2, "step": 7}))
    with refused(r"state\.json: format_version 2 is newer than this undiffuse reads; please upgrade"):
        checkpoint.load_state(folder)


def adam(module: nn.Module, updates: int) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for place in range(updates):
        optimizer.zero_grad()
        module(fold(place, "x").normal((4, 2))).square().mean().backward()
        optimizer.step()
    return optimizer


def test_the_optimizer_goes_on_as_if_never_stopped(tmp_path):
    module = network()
    first = adam(module, 3)
    other = network()
    other.load_state_dict(module.state_dict())
    second = torch.optim.Adam(other.parameters(), lr=0.1)
    state = {name: value.clone() for name, value in optimizer_tensors(first).items()}
    fill_optimizer(second, state, tmp_path)
    for owner, optimizer in ((module, first), (other, second)):
        optimizer.zero_grad()
        owner(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_that_has_not_moved_has_no_state(tmp_path):
    optimizer = torch.optim.Adam(network().parameters())
    assert optimizer_tensors(optimizer) == {}
    fill_optimizer(optimizer, {}, tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("0.exp_avg"),
        lambda state: state.update({"x.y": torch.zeros(1)}),
        lambda state: state.update({"nodot": torch.zeros(1)}),
        lambda state: state.update({"9.step": torch.zeros(())}),
        lambda state: state.update({"0.exp_avg": torch.zeros(5)}),
    ],
)
def test_an_optimizer_of_another_network_is_refused(tmp_path, spoil):
    module = network()
    state = optimizer_tensors(adam(module, 1))
    spoil(state)
    with refused("optimizer.safetensors belongs to another network"):
        fill_optimizer(torch.optim.Adam(module.parameters()), state, tmp_path)
