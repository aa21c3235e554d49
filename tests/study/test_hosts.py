"""The list of a study's hosts: labels that stay, and what hosts differ in."""

from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.study.hosts import FILE, HostFacts, differences, hosts_words, note_host, read_hosts

ONE = HostFacts(
    machine="a",
    kit="1.0",
    source="f",
    python="3.11.2",
    libc="glibc 2.36",
    system="Linux x86_64",
    processor="P",
    cores=2,
    memory_gib=8,
)


def test_a_host_keeps_its_label_and_a_new_one_gets_the_next(tmp_path: Path) -> None:
    labels = [note_host(tmp_path, replace(ONE, machine=m)).label for m in "abacb"]
    assert labels == ["host 1", "host 2", "host 1", "host 3", "host 2"]
    assert [host.machine for host in read_hosts(tmp_path)] == ["a", "b", "c"]


def test_what_is_known_of_a_host_is_what_it_said_last(tmp_path: Path) -> None:
    note_host(tmp_path, replace(ONE, refused="no libpython"))
    note_host(tmp_path, replace(ONE, machine="b"))
    note_host(tmp_path, ONE)
    assert [(host.label, host.refused) for host in read_hosts(tmp_path)] == [
        ("host 1", ""),
        ("host 2", ""),
    ]


def test_differences_name_the_fact_and_who_has_which(tmp_path: Path) -> None:
    hosts = [
        note_host(tmp_path, replace(ONE, machine=machine, cores=cores, gpus=gpus))
        for machine, cores, gpus in (("a", 2, ()), ("b", 8, ("H200, driver 1",)), ("c", 8, ()))
    ]
    assert differences(hosts) == [
        "cores: 2 on host 1, 8 on host 2 and host 3",
        "GPUs: none on host 1 and host 3, H200, driver 1 on host 2",
    ]
    assert differences(hosts[2:]) == []


def test_a_study_of_one_machine_lists_none(tmp_path: Path) -> None:
    assert read_hosts(tmp_path) == ()
    assert hosts_words(["", ""]) == hosts_words(["host 1"]) == hosts_words([]) == ""


def test_a_list_that_is_damaged_or_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"hosts": [{"machine": 5}]}')
    with pytest.raises(KitError, match="not a HostList"):
        read_hosts(tmp_path)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).symlink_to("/etc/passwd")
    with pytest.raises(KitError, match="leads out of"):
        read_hosts(tmp_path)
