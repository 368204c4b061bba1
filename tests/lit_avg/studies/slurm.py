"""A real SLURM on this machine, with made-up nodes: munged, slurmctld and a slurmd for each, in one folder."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NODES = ("fake0", "fake1")

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun")

CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MinJobAge=300
KillWait=5
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9
"""


def missing() -> str | None:
    """Why no SLURM can be started here."""
    programs = [name for name in NEEDED if not _program(name)]
    if programs:
        return f"{', '.join(programs)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "SLURM's daemons are started as root"


@dataclass
class Slurm:
    """A running SLURM."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict[str, subprocess.Popen[bytes]])

    def start(self) -> None:
        """Start the daemons and wait until the nodes are there; the environment points to them from now on."""
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname()
        cores = max(2, os.cpu_count() or 1)
        nodes = [
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} State=UNKNOWN"
            for name, port in zip(NODES, ports[1:], strict=True)
        ]
        config = CONFIG.format(host=f"{host}(127.0.0.1)", port=ports[0], folder=self.folder, nodes="\n".join(nodes))
        (self.folder / "slurm.conf").write_text(config)
        os.environ |= {"SLURM_CONF": str(self.folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1"}
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *options)
        wait_for(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D")
        for name in NODES:
            (self.folder / f"spool-{name}").mkdir()
            self.start_node(name)
        wait_for(lambda: len(self.idle_nodes()) == len(NODES), "nodes")

    def start_node(self, name: str) -> None:
        self._daemon(f"slurmd-{name}", "-D", "-N", name, program="slurmd")

    def kill_node(self, name: str) -> None:
        """kill -9 on the node's slurmd."""
        daemon = self.daemons.pop(f"slurmd-{name}")
        daemon.kill()
        daemon.wait()

    def idle_nodes(self) -> list[str]:
        done = subprocess.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %t"], capture_output=True, text=True)
        return [line.split()[0] for line in done.stdout.splitlines() if line.split()[1] == "idle"]

    def stop(self) -> None:
        subprocess.run(["scancel", "--user=root"], check=False, capture_output=True)
        for daemon in self.daemons.values():
            daemon.send_signal(signal.SIGTERM)
        for daemon in self.daemons.values():  # a slurmd waits for what its jobs left; nothing here does
            try:
                daemon.wait(2)
            except subprocess.TimeoutExpired:
                daemon.kill()
        for name in ("SLURM_CONF", "MASTER_ADDR"):
            os.environ.pop(name, None)

    def _daemon(self, name: str, *options: str, program: str | None = None) -> None:
        log = (self.folder / f"{name}.out").open("wb")
        command = [_program(program or name) or name, *options]
        self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: it never happened"
        time.sleep(0.2)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
