"""Two hosts, each a network namespace of its own, and a cable between them that is cut."""

import os
import re
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def hosts():
    """Two network namespaces that a pair of virtual interfaces connects; their names."""
    names = [f"pyro-vae-{os.getpid()}-{side}" for side in "ab"]
    commands = [f"netns add {name}" for name in names]
    commands += [f"link add veth-a netns {names[0]} type veth peer name veth-b netns {names[1]}"]
    for name, side, number in zip(names, "ab", (1, 2), strict=True):
        commands += [
            f"-n {name} addr add 10.99.0.{number}/24 dev veth-{side}",
            f"-n {name} link set veth-{side} up",
            f"-n {name} link set lo up",
        ]
    try:
        for command in commands:
            try:
                done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
            except FileNotFoundError:
                pytest.skip("there is no command ip")
            if done.returncode:
                pytest.skip(f"`ip {command}` needs root and said: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_a_cut_cable_ends_both_hosts_within_a_minute(hosts, tmp_path):
    command = ["train", "--data", "digits", "--hidden", "8", "--latent", "2", "--device", "cpu"]
    command += ["--no-compile", "--pictures", "100000", "--epochs", "100000"]
    processes, logs = [], []
    for rank, (host, side) in enumerate(zip(hosts, "ab", strict=True)):
        told = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": 29500}
        told |= {"MASTER_ADDR": "10.99.0.1", "GLOO_SOCKET_IFNAME": f"veth-{side}"}
        told |= {"OMP_NUM_THREADS": 1}
        folder = tmp_path / side  # the hosts share no folder
        folder.mkdir()
        logs.append(folder / "log")
        with logs[-1].open("wb") as log:
            processes.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", host, sys.executable, "-m", "pyro_vae", *command],
                    env=os.environ | {name: str(value) for name, value in told.items()},
                    cwd=folder,
                    stdout=log,
                    stderr=log,
                )
            )
    try:
        limit = time.monotonic() + 180
        while "epoch 3/" not in logs[0].read_text() and time.monotonic() < limit:
            assert all(process.poll() is None for process in processes), logs[0].read_text()
            time.sleep(0.1)
        subprocess.run(["ip", "-n", hosts[0], "link", "set", "veth-a", "down"], check=True)
        began = time.monotonic()
        assert [process.wait(90) for process in processes] == [1, 1]
        assert time.monotonic() - began < 60
    finally:
        for process in processes:
            process.kill()
    for mine, log in enumerate(logs):
        said = " ".join(log.read_text().split())
        assert re.search(rf"process {1 - mine} \(host .*ended or cannot be reached", said), said
    assert (tmp_path / "a" / "runs" / "digits-1" / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "b" / "runs").exists()
