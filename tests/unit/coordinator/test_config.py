"""Where a node's configuration comes from, and what is refused, by the flag's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from seamfill.errors import InvalidInput
from seamfill_coordinator.config import (
    Address,
    NodeConfig,
    Profile,
    configures_a_node,
    load_config,
)

LEAST: dict[str, object] = {"node-id": "n1", "cluster-id": "c1", "data-dir": "/data"}


def load(environment: dict[str, str] | None = None, **flags: object) -> NodeConfig:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return load_config({**LEAST, **named}, environment or {})


def test_the_least_configuration_is_a_cluster_of_one_on_loopback() -> None:
    config = load()
    assert config.listen == Address("127.0.0.1", 8080)
    assert config.peer_listen == Address("127.0.0.1", 8081)
    assert config.peers == {}
    assert config.metrics_listen is None
    assert config.snapshot_every == 20_000
    assert config.journal_segment_bytes == 16 << 20
    assert config.log_level == "info"


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'listen = "127.0.0.1:1"\nlog_level = "error"\npeer = ["n2=127.0.0.1:7"]\ncerts = "c"\n'
    )
    environment = {"COORDINATOR_LISTEN": "127.0.0.1:2", "COORDINATOR_CONFIG": str(file)}
    assert load(environment, listen="127.0.0.1:3").listen.port == 3
    assert load(environment).listen.port == 2
    config = load(config=str(file))
    assert config.listen.port == 1
    assert config.log_level == "error"
    assert config.peers == {"n2": Address("127.0.0.1", 7)}


def test_the_existing_deployments_names_are_understood() -> None:
    environment = {
        "COORDINATOR_ID": "old-name",
        "BIND_ADDR": "127.0.0.2:9",
        "PROMETHEUS_PORT": "9102",
    }
    config = load_config({"cluster-id": "c1", "data-dir": "/data"}, environment)
    assert config.node_id == "old-name"
    assert config.listen == Address("127.0.0.2", 9)
    assert config.metrics_listen == Address("127.0.0.2", 9102)


def test_a_regular_name_wins_over_an_alias() -> None:
    environment = {"COORDINATOR_ID": "old", "COORDINATOR_NODE_ID": "new"}
    assert load_config({"cluster-id": "c", "data-dir": "d"}, environment).node_id == "new"


def test_peers_come_from_repeated_flags_or_one_variable() -> None:
    expected = {"n2": Address("10.0.0.2", 1), "n3": Address("::1", 2)}
    assert load(peer=("n2=10.0.0.2:1", "n3=[::1]:2"), certs="c").peers == expected
    variables = {"COORDINATOR_PEER": "n2=10.0.0.2:1, n3=[::1]:2", "COORDINATOR_CERTS": "c"}
    assert load(variables).peers == expected


def test_an_address_reads_back_as_it_was_written() -> None:
    assert str(Address("10.0.0.1", 80)) == "10.0.0.1:80"
    assert str(Address("::1", 80)) == "[::1]:80"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("node-id", ""),
        ("node-id", "with space"),
        ("node-id", "n" * 64),
        ("cluster-id", "a/b"),
        ("listen", "8080"),
        ("listen", ":8080"),
        ("listen", "127.0.0.1:"),
        ("listen", "127.0.0.1:65536"),
        ("listen", "127.0.0.1:-1"),
        ("listen", "127.0.0.1:٣"),
        ("profile", "production"),
        ("peer-listen", "127.0.0.1:8080"),
        ("peer", ("n2",)),
        ("peer", ("n1=127.0.0.1:1",)),
        ("peer", ("n2=127.0.0.1:0",)),
        ("peer", ("n2=127.0.0.1:1", "n2=127.0.0.1:2")),
        ("peer", ("=127.0.0.1:1",)),
        ("peer", tuple(f"p{n}=127.0.0.1:{n + 1}" for n in range(9))),
        ("advertise-url", "10.0.0.1:8080"),
        ("advertise-url", "http://10.0.0.1/path"),
        ("metrics-listen", "nine"),
        ("log-level", "loud"),
    ],
)
def test_a_bad_value_is_refused_by_its_flag(flag: str, value: object) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_config({**LEAST, flag: value}, {})
    assert refusal.value.field == flag


@pytest.mark.parametrize("missing", ["node-id", "cluster-id", "data-dir"])
def test_what_is_missing_is_named(missing: str) -> None:
    flags = {name: value for name, value in LEAST.items() if name != missing}
    with pytest.raises(InvalidInput) as refusal:
        load_config(flags, {})
    assert refusal.value.field == missing


def test_peers_need_a_port_they_can_know() -> None:
    with pytest.raises(InvalidInput) as refusal:
        load(peer_listen="127.0.0.1:0", peer=("n2=127.0.0.1:1",))
    assert refusal.value.field == "peer-listen"


def test_a_member_that_listens_everywhere_must_say_where_it_is_reached() -> None:
    listen, peer = "0.0.0.0:8080", ("n2=10.0.0.2:1",)
    with pytest.raises(InvalidInput) as refusal:
        load(listen=listen, peer=peer, certs="c")
    assert refusal.value.field == "advertise-url"
    config = load(listen=listen, peer=peer, certs="c", advertise_url="http://10.0.0.1:8080/")
    assert config.advertise_url == "http://10.0.0.1:8080"
    assert load(listen=listen).advertise_url is None, "alone, nobody needs to reach it"


@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_peers_without_certificates_are_refused_with_the_command_that_makes_them(
    profile: str,
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load(peer=("n3=10.0.0.3:1", "n2=10.0.0.2:1"), profile=profile)
    assert refusal.value.field == "certs"
    assert "coordinator certs init --dir DIR --node n1 --node n2 --node n3" in refusal.value.message


def test_nodes_on_loopback_may_make_their_own_in_the_dev_profile_only() -> None:
    """The documented line that starts a node by hand has no certificates in it."""
    on_loopback = ("n2=127.0.0.1:1", "n3=[::1]:2")
    assert load(peer=on_loopback).certs is None
    assert load(peer="n2=localhost:1").certs is None
    for wrong in (
        {"peer": on_loopback, "profile": "prod"},
        {"peer": (*on_loopback, "n4=10.0.0.4:1")},
        {"peer": on_loopback, "peer_listen": "0.0.0.0:8081", "advertise_url": "http://h:1"},
        {"peer": "n2=n2.example:1"},
    ):
        with pytest.raises(InvalidInput) as refusal:
            load(**wrong)
        assert refusal.value.field == "certs"


def test_certificates_and_profile_come_from_the_same_three_places(tmp_path: Path) -> None:
    assert (load().certs, load().profile) == (None, Profile.DEV)
    file = tmp_path / "node.toml"
    file.write_text('certs = "from-file"\nprofile = "prod"\n')
    environment = {"COORDINATOR_CERTS": "from-environment", "COORDINATOR_PROFILE": "PROD"}
    config = load(environment, certs="from-flag", config=str(file))
    assert (config.certs, config.profile) == (Path("from-flag"), Profile.PROD)
    assert load(environment, config=str(file)).certs == Path("from-environment")
    config = load(config=str(file))
    assert (config.certs, config.profile) == (Path("from-file"), Profile.PROD)


@pytest.mark.parametrize(
    "content",
    ["not toml =", 'unknown = "x"', "listen = true", "peer = [1]", "log_level = ['a']"],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(content)
    with pytest.raises(InvalidInput):
        load(config=str(file))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(InvalidInput) as refusal:
        load(config="/does/not/exist.toml")
    assert refusal.value.field == "config"


def test_the_variables_of_a_node_are_told_from_others() -> None:
    assert configures_a_node("COORDINATOR_PEER")
    assert configures_a_node("PROMETHEUS_PORT")
    assert not configures_a_node("PATH")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("snapshot-every", "9"),
        ("snapshot-every", "many"),
        ("snapshot-every", "-50"),
        ("journal-segment-bytes", "65535"),
        ("journal-segment-bytes", str(2 << 30)),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_config(LEAST | {name: text}, {})
    assert refusal.value.field == name


def test_numbers_may_be_given() -> None:
    given = {"snapshot-every": "50", "journal-segment-bytes": "65536"}
    config = load_config(LEAST | given, {})
    assert (config.snapshot_every, config.journal_segment_bytes) == (50, 65_536)
