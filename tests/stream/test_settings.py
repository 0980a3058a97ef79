"""Settings: where they come from, in which order, and what is said about those that cannot be."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from model.spec import preset
from stream.errors import SettingsError
from stream.settings import RESERVED, ArmSettings, Settings, convert, load

TOML = """
salt = "from file"

[kafka]
"bootstrap.servers" = "file:9092"
"security.protocol" = "SASL_SSL"
"socket.keepalive.enable" = true
"fetch.wait.max.ms" = 50

[worker]
commit_interval_s = 0.1
allowed_lateness_s = 7

[[arms]]
name = "sam"
share = 0.5

[[arms]]
name = "short"
preset = "din-50"
share = 0.5
learn = false
learn_from = "all"
model = { item_dim = 8 }
optim = { dense_lr = 0.01 }
"""


def written(directory: Path, text: str, name: str = "settings.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_without_anything_the_defaults_hold() -> None:
    assert load(environ={}) == Settings()
    assert Settings().kafka == {"bootstrap.servers": "localhost:9092"}


def test_a_toml_file_says_everything(tmp_path: Path) -> None:
    settings = load(written(tmp_path, TOML), environ={})
    assert settings.salt == "from file"
    assert settings.worker.commit_interval_s == 0.1
    assert settings.worker.allowed_lateness_s == 7
    assert settings.worker.group == Settings().worker.group, "what is not named keeps its default"
    assert [arm.name for arm in settings.arms] == ["sam", "short"]
    short = settings.arms[1]
    assert (short.share, short.learn, short.learn_from, short.optim.dense_lr) == (0.5, False, "all", 0.01)
    assert short.spec() == msgspec.structs.replace(preset("din-50"), item_dim=8)


def test_kafka_takes_any_property_and_says_it_as_librdkafka_wants_it(tmp_path: Path) -> None:
    settings = load(
        written(tmp_path, TOML),
        environ={"SAMSTREAM_KAFKA__SASL_USERNAME": "1_000", "SAMSTREAM_KAFKA__LOG_CONNECTION_CLOSE": "false"},
        overrides=["kafka.ssl.ca.location=/etc/ca.pem", "kafka.sasl.password=a=b # c"],
    )
    assert settings.kafka == {
        "bootstrap.servers": "file:9092",
        "security.protocol": "SASL_SSL",
        "socket.keepalive.enable": "true",
        "fetch.wait.max.ms": "50",
        "sasl.username": "1_000",
        "log.connection.close": "false",
        "ssl.ca.location": "/etc/ca.pem",
        "sasl.password": "a=b # c",
    }


def test_every_property_can_be_an_environment_variable_to_the_letter() -> None:
    secrets = {
        "sasl.password": ' a=b # "c" [1] ',
        "ssl.key.password": "true",
        "ssl.key.pem": "-----BEGIN PRIVATE KEY-----\nMII=\n-----END PRIVATE KEY-----",
        "sasl.oauthbearer.client.secret": "0123",
        "sasl.oauthbearer.client.credentials.client.secret": "1e5",
        "ssl.keystore.password": "",
    }
    environ = {f"SAMSTREAM_KAFKA__{key.upper().replace('.', '_')}": value for key, value in secrets.items()}
    assert load(environ=environ).kafka == secrets


def test_properties_of_a_file_need_no_quotes(tmp_path: Path) -> None:
    text = '[kafka]\nbootstrap.servers = "a:1"\nsasl.username = "me"\nsasl.password = "file"\nfetch.wait.max.ms = 50'
    settings = load(written(tmp_path, text), environ={"SAMSTREAM_KAFKA__SASL_PASSWORD": "environment"})
    assert settings.kafka == {
        "bootstrap.servers": "a:1",
        "sasl.username": "me",
        "sasl.password": "environment",
        "fetch.wait.max.ms": "50",
    }


def test_no_value_of_a_property_is_shown(tmp_path: Path) -> None:
    settings = load(environ={"SAMSTREAM_KAFKA__SASL_PASSWORD": "marker", "SAMSTREAM_KAFKA__BOOTSTRAP_SERVERS": "a:1"})
    for shown in (repr(settings), str(settings), repr(settings.kafka), f"{settings.kafka}"):
        assert "marker" not in shown
        assert "a:1" in shown
        assert "sasl.password" in shown
    assert "marker" not in repr(msgspec.structs.replace(settings, salt="another"))
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings
    for wrong in (
        ["kafka=1", "kafka.sasl.password=marker"],
        ["kafka.sasl.password:marker"],
        ["sasl.password=marker"],
        ["kafka.group.id=marker"],
        ["kafka.sasl.password marker"],
    ):
        with pytest.raises(SettingsError) as caught:
            load(environ={}, overrides=wrong)
        assert "marker" not in str(caught.value), wrong
    file = written(tmp_path, '[kafka]\nsasl.password = "marker\n')
    with pytest.raises(SettingsError, match=re.escape(str(file))) as caught:
        load(file, environ={})
    assert "marker" not in str(caught.value)


def test_json_says_the_same_as_toml(tmp_path: Path) -> None:
    values = {
        "salt": "from file",
        "kafka": {"bootstrap.servers": "file:9092", "security.protocol": "SASL_SSL", "fetch.wait.max.ms": 50}
        | {"socket.keepalive.enable": True},
        "worker": {"commit_interval_s": 0.1, "allowed_lateness_s": 7},
        "arms": [
            {"name": "sam", "share": 0.5},
            {
                "name": "short",
                "preset": "din-50",
                "share": 0.5,
                "learn": False,
                "learn_from": "all",
                "model": {"item_dim": 8},
                "optim": {"dense_lr": 0.01},
            },
        ],
    }
    from_json = load(written(tmp_path, json.dumps(values), "settings.json"), environ={})
    assert from_json == load(written(tmp_path, TOML), environ={})


def test_what_a_process_writes_for_its_children_is_read_as_it_was(tmp_path: Path) -> None:
    settings = load(written(tmp_path, TOML), environ={}, overrides=["seed=5", "trainer.arms=['short']"])
    path = tmp_path / "children.json"
    path.write_bytes(msgspec.json.encode(settings))
    assert load(path, environ={}) == settings


def test_the_environment_is_above_the_file_and_flags_are_above_both(tmp_path: Path) -> None:
    path = written(
        tmp_path, '[worker]\ngroup = "file"\ndevice = "file"\nallowed_lateness_s = 1\n[topics]\nprefix = "file-"'
    )
    environ = {
        "SAMSTREAM_WORKER__DEVICE": "environment",
        "SAMSTREAM_WORKER__ALLOWED_LATENESS_S": "2",
        "SAMSTREAM_TOPICS__PREFIX": "environment-",
    }
    settings = load(
        path, environ=environ, overrides=["worker.allowed_lateness_s=3", "topics.prefix=first-", "topics.prefix=x-"]
    )
    assert settings.worker.group == "file"
    assert settings.worker.device == "environment"
    assert settings.worker.allowed_lateness_s == 3
    assert settings.topics.prefix == "x-", "the last flag wins"


def test_what_a_job_prefers_lies_below_the_file_key_by_key(tmp_path: Path) -> None:
    defaults: dict[str, Any] = {"worker": {"allowed_lateness_s": 1.0, "idle_timeout_s": 2.0}, "salt": "job"}
    path = written(tmp_path, "[worker]\nidle_timeout_s = 3.0")
    settings = load(path, environ={}, defaults=defaults, overrides=["worker.threads=2"])
    assert (settings.worker.allowed_lateness_s, settings.worker.idle_timeout_s, settings.worker.threads) == (
        1.0,
        3.0,
        2,
    )
    assert settings.salt == "job"
    assert defaults == {"worker": {"allowed_lateness_s": 1.0, "idle_timeout_s": 2.0}, "salt": "job"}, (
        "what was handed over stays"
    )


def test_a_file_that_names_arms_replaces_those_that_a_job_prefers(tmp_path: Path) -> None:
    defaults = {"arms": [{"name": "mine"}]}
    assert [arm.name for arm in load(environ={}, defaults=defaults).arms] == ["mine"]
    path = written(tmp_path, '[[arms]]\nname = "yours"')
    assert [arm.name for arm in load(path, environ={}, defaults=defaults).arms] == ["yours"]


def test_other_variables_are_not_settings() -> None:
    environ = {"SAMSTREAM_TEST_BOOTSTRAP": "x", "OTHER__WORKER": "x", "SAMSTREAMX_WORKER__GROUP": "x", "SAMSTREAM": "x"}
    assert load(environ=environ) == Settings()


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("false", False), ("'true'", True), ("1", True), ("0", False)]
)
def test_booleans_may_be_said_in_several_ways(text: str, value: bool) -> None:
    [arm] = load(environ={}, overrides=[f"arms=[{{name = 'a', learn = {text}}}]"]).arms
    assert arm.learn is value


def test_values_of_flags_are_toml_and_else_text() -> None:
    overrides = [
        "arms=[{name='a', share=2}, {name='b', preset='mean'}]",
        "trainer.arms=['b']",
        "trainer.progressive_log=/tmp/a b",
        "worker.threads='3'",
        'salt="quoted"',
        "topics.prefix=",
    ]
    settings = load(environ={}, overrides=overrides)
    assert [(arm.name, arm.share, arm.preset) for arm in settings.arms] == [("a", 2.0, "sam"), ("b", 1.0, "mean")]
    assert settings.trainer.arms == ("b",)
    assert settings.trainer.progressive_log == "/tmp/a b"
    assert settings.worker.threads == 3
    assert (settings.salt, settings.topics.prefix) == ("quoted", "")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("worker.comit_interval_s=1", r"unknown field `comit_interval_s` - at `\$\.worker`"),
        ("wroker.group=x", "unknown field `wroker`"),
        ("arms=[{name='a', shares=1}]", r"unknown field `shares` - at `\$\.arms\[0\]`"),
        ("arms=[{name='a', optim={lr=1}}]", r"unknown field `lr` - at `\$\.arms\[0\]\.optim`"),
        ("arms=[{name='good'}, {name='a', model={lenth=9}}]", "arm 'a'.*has no lenth; it has: interest"),
        ("worker.commit_interval_s=soon", r"Expected `float`, got `str` - at `\$\.worker\.commit_interval_s`"),
        ("topics.partitions=2.5", r"Expected `int`.*`\$\.topics\.partitions`"),
        ("salt=123", r"Expected `str`, got `int` - at `\$\.salt`"),
        ("arms=[{name='a', learn='perhaps'}]", r"Expected `bool`.*`\$\.arms\[0\]\.learn`"),
        ("trainer.arms=sam", r"Expected `array`, got `str` - at `\$\.trainer\.arms`"),
        ("worker.commit_interval_s=0", r"> 0\.0 - at `\$\.worker\.commit_interval_s`"),
        ("worker.commit_interval_s=nan", r"> 0\.0 - at `\$\.worker\.commit_interval_s`"),
        ("worker.allowed_lateness_s=-1", r">= 0\.0 - at `\$\.worker\.allowed_lateness_s`"),
        ("worker.max_candidates=5001", r"<= 5000 - at `\$\.worker\.max_candidates`"),
        ("state.length=30001", r"<= 30000 - at `\$\.state\.length`"),
        ("topics.partitions=0", r">= 1 - at `\$\.topics\.partitions`"),
        ("arms=[{name='a', optim={dense_lr=2}}]", r"<= 1\.0 - at `\$\.arms\[0\]\.optim\.dense_lr`"),
        ("arms=[{name='a', learn_from='others'}]", r"'others' - at `\$\.arms\[0\]\.learn_from`"),
        ("arms=[{name='a b'}]", r"regex.*`\$\.arms\[0\]\.name`"),
        ("arms=[{name='../a'}]", r"regex.*`\$\.arms\[0\]\.name`"),
        ("arms=[]", "at least one"),
        ("arms=[{name='a'}, {name='b'}, {name='a'}]", r"distinct names.*\['a', 'b', 'a'\]"),
        ("arms=[{name='a', share=0}, {name='b', share=0}]", "`share` above 0"),
        ("arms=[{name='a', share=-1}]", r">= 0\.0 - at `\$\.arms\[0\]\.share`"),
        ("arms=[{name='a', model={statistics=[60.0]}}, {name='b', preset='din'}]", "different half-lives.*60"),
        ("arms=[{name='a', preset='zam'}]", "arm 'a': no model preset is called 'zam'; known: sam"),
        ("arms=[{name='a', preset='din-0'}]", "arm 'a'.*at least 1"),
        ("arms=[{name='a', model={interest={kind='transformer'}}}]", "arm 'a'.*'transformer'"),
        ("arms=[{name='a', model={length=1001}}]", r"arm 'a' looks at 1001 behaviours, state\.length keeps 1000"),
        ("state.length=100", "arm 'sam' looks at 1000 behaviours"),
        ("trainer.arms=['sam', 'nobody']", r"trainer\.arms names \['nobody'\]; there are \['sam'\]"),
        ("trainer.checkpoint_interval_s=2000", "updates between two checkpoints"),
        ("worker.group", r"--set worker\.group: write it as section\.key=value"),
        ("salt.x=1", r"`\$\.salt`"),
        ("worker=1", r"`\$\.worker`"),
    ],
)
def test_what_cannot_be_is_refused_and_the_error_says_where(override: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(environ={}, overrides=[override])


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_properties_that_the_promises_rest_on_are_not_for_the_user(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"kafka\.{name}: samstream's promises"):
        load(environ={}, overrides=[f"kafka.{name}=x"])
    with pytest.raises(SettingsError, match=rf"kafka\.{name}"):
        load(environ={f"SAMSTREAM_KAFKA__{name.upper().replace('.', '_')}": "x"})
    with pytest.raises(SettingsError, match=rf"kafka\.{name}"):
        Settings(kafka={name: "x"})


def test_a_share_without_end_is_refused() -> None:
    with pytest.raises(SettingsError, match="share"):
        load(environ={}, overrides=["arms=[{name = 'a', share = inf}, {name = 'b', share = inf}]"])


@pytest.mark.parametrize("name", ["attribution_window_s", "allowed_lateness_s"])
def test_a_window_without_end_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load(environ={}, overrides=[f"worker.{name}=inf"])


def test_an_unknown_key_of_the_environment_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown field `comit_interval_s`"):
        load(environ={"SAMSTREAM_WORKER__COMIT_INTERVAL_S": "1"})


def test_a_key_within_a_value_is_refused_with_the_one_who_said_it(tmp_path: Path) -> None:
    path = written(tmp_path, "worker = 1")
    with pytest.raises(SettingsError, match="SAMSTREAM_WORKER__GROUP: worker is a value, not a section"):
        load(path, environ={"SAMSTREAM_WORKER__GROUP": "x"})
    with pytest.raises(SettingsError, match=r"--set worker\.group: worker is a value"):
        load(path, environ={}, overrides=["worker.group=x"])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("bad.toml", b"[worker\n", "line 1"),
        ("bad.toml", b"[worker]\nthreads = 1\nthreads = 2\n", "overwrite"),
        ("bad.json", b"{", "line 1"),
        ("bad.json", b"[1]", "holds list"),
        ("bad.toml", b"salt = '\xff'", "utf-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SettingsError, match=words) as caught:
        load(tmp_path / name, environ={})
    assert str(tmp_path / name) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml.*No such file"):
        load(tmp_path / "nowhere.toml", environ={})


def test_a_file_with_a_bad_key_says_where(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"unknown field `x` - at `\$\.worker`"):
        load(written(tmp_path, "[worker]\nx = 1"), environ={})


def test_plain_values_become_settings_and_settings_cannot_be_changed() -> None:
    settings = convert({"worker": {"threads": 2}})
    assert settings.worker.threads == 2
    with pytest.raises(AttributeError):
        settings.seed = 1  # type: ignore[misc]
    with pytest.raises(SettingsError, match="threads"):
        convert({"worker": {"threads": 0}})


@pytest.mark.parametrize("name", ["sam", "sam-paper", "sam-3p+", "din", "mean", "counts", "din-50", "sam-paper-200"])
def test_an_arm_runs_its_preset(name: str) -> None:
    assert ArmSettings(name="a", preset=name).spec() == preset(name)
    assert ArmSettings(name="a", preset=name, model={"hidden": [8]}).spec().hidden == (8,)


PAIR = [{"name": "a", "share": 0}, {"name": "b", "preset": "din-50"}]


def test_an_arm_may_interleave_two_others_and_then_has_no_model() -> None:
    settings = convert({"arms": [*PAIR, {"name": "a-vs-b", "share": 0.5, "interleave": ["a", "b"]}]})
    assert settings.arms[2].interleave == ("a", "b")
    assert [arm.name for arm in settings.models] == ["a", "b"]
    with pytest.raises(SettingsError, match=r"a-vs-b.* it has no model"):
        settings.arms[2].spec()


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ({"interleave": ["a", "a"]}, "two different arms"),
        ({"interleave": ["a"]}, "two different arms"),
        ({"interleave": ["a", "b", "a"]}, "two different arms"),
        ({"interleave": ["a", "c"]}, r"'m' interleaves \['c'\]; arms with a model are \['a', 'b'\]"),
        ({"interleave": ["m", "a"]}, r"'m' interleaves \['m'\]"),
        ({"interleave": ["a", "mixed"]}, r"interleaves \['mixed'\]"),
        ({"interleave": ["a", "b"], "preset": "din", "learn": False}, "no model of its own: drop preset, learn"),
        ({"interleave": ["a", "b"], "model": {"length": 5}}, "drop model"),
        ({"interleave": "a"}, "interleave"),
    ],
)
def test_what_cannot_be_interleaved_is_named(arm: dict[str, object], says: str) -> None:
    mixed = {"name": "mixed", "interleave": ["a", "b"]}
    with pytest.raises(SettingsError, match=says):
        convert({"arms": [*PAIR, mixed, {"name": "m", **arm}]})


def test_a_trainer_cannot_teach_an_arm_without_a_model() -> None:
    arms = [*PAIR, {"name": "mixed", "interleave": ["a", "b"]}]
    with pytest.raises(SettingsError, match=r"trainer.arms names \['mixed'\]"):
        convert({"arms": arms, "trainer": {"arms": ["mixed"]}})


def test_without_a_prefix_the_names_are_those_that_always_were() -> None:
    settings = load(environ={})
    assert (settings.worker.group, settings.monitor.group) == ("samstream-worker", "samstream-monitor")
    directories = (settings.state.directory, settings.trainer.directory, settings.monitor.directory)
    assert directories == (".samstream/state", ".samstream/checkpoints", ".samstream/monitor")


def names(settings: Settings) -> list[str]:
    """Return the names that no two installations may share."""
    groups = [settings.worker.group, settings.monitor.group]
    return [*groups, settings.state.directory, settings.trainer.directory, settings.monitor.directory]


def test_names_that_are_not_set_have_the_prefix_in_them_wherever_it_is_said(tmp_path: Path) -> None:
    told = [
        load(environ={"SAMSTREAM_TOPICS__PREFIX": "shop."}),
        load(environ={}, overrides=["topics.prefix=shop."]),
        load(written(tmp_path, '[topics]\nprefix = "shop."'), environ={}),
        convert({"topics": {"prefix": "shop."}}),
    ]
    for settings in told:
        assert settings.worker.group == "shop.samstream-worker"
        assert settings.monitor.group == "shop.samstream-monitor"
        assert all("shop." in name for name in names(settings))
        assert settings == told[0]


@pytest.mark.parametrize(
    "prefix", ["", "shop.", "state", "state-", ".", "..", "a", "-", "checkpoints", "prefix-a", "_"]
)
def test_no_two_prefixes_share_a_name_and_none_leads_out_of_the_directory(prefix: str) -> None:
    mine = convert({"topics": {"prefix": prefix}})
    base = Path(".samstream").resolve()
    for name in names(mine)[2:]:
        assert Path(name).resolve().is_relative_to(base)
        assert Path(name).resolve() != base
    for other in ("", "shop", "shop..", "stat", "state", "...", "a-", "prefix-", "monitor"):
        if other == prefix:
            continue
        theirs = convert({"topics": {"prefix": other}})
        assert not set(names(mine)) & set(names(theirs))
        for one, another in ((mine, theirs), (theirs, mine)):
            for name in names(one)[2:]:
                assert not any(Path(name).is_relative_to(directory) for directory in names(another)[2:])


def test_a_name_that_is_given_stays_as_it_is_given() -> None:
    given = ["worker.group=w", "monitor.group=m", "state.directory=/s", "trainer.directory=t", "monitor.directory=d"]
    settings = load(environ={}, overrides=["topics.prefix=shop.", *given])
    assert names(settings) == ["w", "m", "/s", "t", "d"]
    again = load(environ={}, overrides=[*given, "topics.prefix=other."])
    assert names(again) == names(settings)


def test_a_prefix_that_no_topic_can_have_is_refused_before_it_is_part_of_a_path() -> None:
    with pytest.raises(SettingsError, match=r"topics\.prefix '\.\./x'"):
        load(environ={}, overrides=["topics.prefix=../x"])


def test_the_environment_sets_keys_without_a_section() -> None:
    settings = load(environ={"SAMSTREAM__SALT": "spring", "SAMSTREAM__SEED": "5", "SAMSTREAM__ARMS": "[{name='a'}]"})
    assert (settings.salt, settings.seed, [arm.name for arm in settings.arms]) == ("spring", 5, ["a"])
    with pytest.raises(SettingsError, match="unknown field `pepper`"):
        load(environ={"SAMSTREAM__PEPPER": "1"})


@pytest.mark.parametrize("name", ["X__", "_", "__", "__X", "___", "WORKER__", "KAFKA__", "A B__C"])
def test_a_variable_without_a_key_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"^SAMSTREAM_{name}: write it as SAMSTREAM_<SECTION>__<KEY>"):
        load(environ={f"SAMSTREAM_{name}": "x"})


@pytest.mark.parametrize("override", ["=x", ".x=1", "worker.=1", ".=1", "kafka.=marker", "="])
def test_a_flag_without_a_key_is_named(override: str) -> None:
    with pytest.raises(SettingsError, match=r"--set .*: write it as section\.key=value") as caught:
        load(environ={}, overrides=[override])
    assert "marker" not in str(caught.value)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000, "1\nother = 2"])
def test_text_that_is_no_single_toml_value_is_text(value: str) -> None:
    assert load(environ={"SAMSTREAM__SALT": value}).salt == value
