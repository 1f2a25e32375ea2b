"""One schema: what it does not know it refuses, with the nearest name; what it writes it reads."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from undiffuse.config import Config, load, read, recipes
from undiffuse.errors import UndiffuseError, UsageError

PROMISED = [
    "seed", "data.source", "data.classes", "data.levels", "model.channels", "diffusion.schedule", "diffusion.T",
    "diffusion.prediction", "diffusion.noise", "diffusion.variance", "diffusion.loss", "train.steps",
    "train.batch_size", "train.lr", "train.warmup", "train.ema", "train.checkpoint_every", "train.sample_every",
    "train.precision", "sample.sampler", "sample.steps", "sample.spacing", "sample.guidance",
]  # fmt: skip


def written(tmp_path, text: str | bytes):
    path = tmp_path / "some.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(words: str):
    return pytest.raises(UsageError, match=words)


@pytest.mark.parametrize("key", PROMISED)
def test_every_promised_key_is_there(key):
    value = Config().model_dump()
    for part in key.split("."):
        value = value[part]


def test_the_same_from_nothing_an_empty_file_and_no_change(tmp_path):
    assert read(written(tmp_path, "")) == Config() == Config().replaced({})


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        tiny.config(seed=3, data__classes=["0", "1e3", "no", "null", "1_0", "é", "a: b", "- x"], train__lr=1e-30),
        tiny.config(data__levels=17, data__shape=[1, 8, 8], sample__guidance=-2.5, train__ema=0),
    ],
)
def test_yaml_round_trip(tmp_path, config):
    assert read(written(tmp_path, config.as_yaml())) == config


@given(st.text(max_size=8), st.floats(1e-30, 1e30), st.integers(0, 2**63))
def test_yaml_round_trip_of_any_name_and_number(tmp_path_factory, name, lr, seed):
    config = Config().replaced({"data.classes": [name], "train.lr": lr, "seed": seed})
    assert read(written(tmp_path_factory.mktemp("trip"), config.as_yaml())) == config


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_loads_and_states_its_source(name):
    assert load(name).data.source


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-3", "1.e-3"])
def test_numbers_are_read_as_people_write_them(tmp_path, text):
    assert load("digits", [f"train.lr={text}"]).train.lr == 1e-3
    assert read(written(tmp_path, f"train: {{lr: {text}}}")).train.lr == 1e-3


def test_class_names_that_look_like_numbers_are_names(tmp_path):
    assert read(written(tmp_path, "data: {classes: [3, '1', 7]}")).data.classes == ["3", "1", "7"]
    assert load("digits", ["data.classes=[3, 1]"]).data.classes == ["3", "1"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trian.lr=1", "unknown key 'trian'; did you mean 'train"),
        ("train.lrr=1", r"unknown key 'train\.lrr'; did you mean 'train\.lr'"),
        ("train.stesp=1", r"did you mean 'train\.steps'"),
        ("diffusion.t=5", r"unknown key 'diffusion\.t'; did you mean 'diffusion\.T'"),
        ("sede=1", "did you mean 'seed'"),
        ("zzz=1", "unknown key 'zzz'; known: .*seed"),
        ("train.lr.x=1", "unknown key 'train.lr.x': 'lr' is a value"),
        ("train=3", "train: input should be"),
        ("train=", "train: input should be"),
        ("train.lr=abc", r"train\.lr: input should be a valid number, got 'abc'"),
        ("train.lr=true", "valid number"),
        ("train.lr=0", "greater than 0"),
        ("train.lr=-1", "greater than 0"),
        ("train.lr=.nan", "finite"),
        ("train.lr=.inf", "finite"),
        ("train.lr=1e999", "finite"),
        ("sample.guidance=.nan", "finite"),
        ("sample.guidance=-.inf", "finite"),
        ("sample.eta=.nan", "finite"),
        ("sample.eta=1.5", "less than or equal to 1"),
        ("train.ema=1", "less than 1"),
        ("train.ema=[0.9, 1.5]", "train.ema: input should be less than 1, got 1.5"),
        ("train.ema=[]", "train.ema: list should have at least 1 item"),
        ("train.minutes=1e308", "train.minutes: input should be less than or equal to 1000000"),
        ("train.steps=1.5", "valid integer"),
        ("train.steps=0", "greater than or equal to 1"),
        ("train.steps='5'", "valid integer, got '5'"),
        ("seed=-1", "greater than or equal to 0"),
        ("seed=true", "valid integer"),
        ("diffusion.T=1000000000", "less than or equal to 1000000"),
        ("train.batch_size=1000000000", "less than or equal to 1000000"),
        ("train.precision=fp8", "'float32', 'bf16' or 'fp16'"),
        ("train.lr_decay=exp", "'none', 'linear', 'cosine', 'cooldown' or 'inverse_sqrt'"),
        ("model.multipliers=[]", "at least 1 item"),
        ("model.conditional=1", "valid boolean"),
        ("data.shape=[8, 8]", "at least 3 items"),
        ("data.shape=[1, 8, 8, 8]", "at most 3 items"),
        ("data.classes=3", "valid list"),
        ("data.classes=[1.5]", "valid string"),
        ("data.levels=257", "less than or equal to 256"),
        ("format_version=2", "format_version 2 is newer than 1; please upgrade"),
        ("format_version=0", "greater than or equal to 1"),
        ("train.lr", "--set takes key=value, got 'train.lr'"),
        ("=3", "--set takes key=value"),
        (" =3", "--set takes key=value"),
        ("", "--set takes key=value"),
        ("..=1", "unknown key"),
        (".train=1", "unknown key"),
        ("train.=1", r"unknown key 'train\.'"),
        ("train.lr=[", "cannot read the value"),
        ("train.lr={a: 1}", "valid number"),
        ("train.lr=!!python/object/apply:os.system [echo]", "cannot read the value"),
        ("train.lr=!!bool x", "cannot read the value"),
        ("train.lr=!!timestamp x", "cannot read the value"),
        ("train.lr=\x00", "cannot read the value"),
        ("train.lr=" + "[" * 20000, "cannot read the value"),
        ("seed=" + "9" * 5000, "cannot read the value"),
        ("train.lr=" + "x" * 5000, "valid number"),
    ],
)
def test_a_wrong_change_is_one_line(change, words):
    with refused(words) as error:
        load("digits", [change])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200


def test_spaces_around_a_key_do_no_harm():
    assert load("digits", [" train.lr = 1e-4"]).train.lr == 1e-4


def test_a_value_may_hold_an_equals_sign():
    assert load("digits", ["data.source=a=b"]).data.source == "a=b"


def test_the_last_of_two_changes_holds():
    assert load("digits", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "a configuration is a mapping of sections, this is list"),
        ("foo", "this is str"),
        ("7", "this is int"),
        ("train: {lr: 1}}", "not YAML"),
        ("train:\n\tlr: 1", "not YAML"),
        ("{", "not YAML"),
        ("? [1]\n: 2", "not YAML"),
        ("--- a\n--- b", "not YAML"),
        ("!!binary abc", "not YAML"),
        ("seed: !!int x", "not YAML"),
        ("[" * 20000, "not YAML"),
        ("\x00", "not YAML"),
        (b"\xff\xfe\x80", "cannot be read as a configuration"),
        ("1: 2", "keys should be strings"),
        ("format_version: 2\nfuture: yes", "format_version 2 is newer than 1; please upgrade undiffuse"),
        ("format_version: 1.5", "valid integer"),
        ("sede: 1", "unknown key 'sede'; did you mean 'seed'"),
        ("train: {lr: &a [*a]}", "anchors"),
        ("&a {b: *a}", "anchors"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, text, words):
    with refused(words) as error:
        read(written(tmp_path, text))
    assert "\n" not in str(error.value)
    assert "some.yaml" in str(error.value)


@given(st.binary(max_size=60))
def test_junk_is_a_configuration_or_a_clear_refusal(tmp_path_factory, junk):
    path = written(tmp_path_factory.mktemp("junk"), junk)
    try:
        read(path)
    except UndiffuseError as error:
        assert "\n" not in str(error)


def test_a_file_that_cannot_be_read(tmp_path):
    for path, words in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "directory")):
        with refused(words):
            read(path)


def test_recipes_are_named_and_near_misses_are_guessed():
    assert "digits" in recipes()
    with refused("unknown recipe 'digitz'; did you mean 'digits'"):
        load("digitz")
    with refused(r"none\.yaml: cannot be read"):
        load("none.yaml")


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.lr = 1.0


def test_reading_a_configuration_needs_no_torch():
    code = "import sys; from undiffuse.config import load; load('digits'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_preset_stands_for_its_settings_and_keys_beside_it_change_them(tmp_path):
    chosen = load("digits", ["model.preset=ddpm-cifar10", "model.blocks=3"]).model
    assert (chosen.channels, chosen.multipliers, chosen.blocks, chosen.dropout) == (128, (1, 2, 2, 2), 3, 0.1)
    file = tmp_path / "mine.yaml"
    file.write_text("model: {preset: adm-imagenet64, channels: 32}\n")
    assert (load(str(file)).model.channels, load(str(file)).model.resample) == (32, "residual")
    assert "preset" not in load(str(file)).as_yaml()


def test_setting_a_preset_forgets_the_recipes_own_network_whatever_the_order():
    one = load("digits", ["model.preset=ddpm-cifar10", "model.heads=2"])
    other = load("digits", ["model.heads=2", "model.preset=ddpm-cifar10"])
    assert one == other
    assert one.model.norm_groups == 32


@pytest.mark.parametrize("value", ["ddpm-cifar", "3", "", "[1]", "{a: 1}"])
def test_an_unknown_preset_is_one_clear_line(value):
    with pytest.raises(UsageError, match=r"model\.preset: unknown name .*; (did you mean|known)") as caught:
        load("digits", [f"model.preset={value}"])
    assert "\n" not in str(caught.value)
