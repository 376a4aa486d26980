"""Hosts that share nothing but a directory which one more host, the server, hands out over the network.

A host is a network, a mount and a UTS namespace with one wire (a veth pair) to the server, which speaks SFTP: sshfs, the
network file system that needs no module of its own in the kernel, mounts the tests' folder over itself, so that paths
are the same everywhere. Nothing is cached but what the kernel must, as on a cluster's mount for several writers.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from team import TOP, die_with_parent, start

PORT = 9000
SFTP_SERVERS = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"]
SERVE = """
import ctypes, signal, socket, subprocess, sys
libc = ctypes.CDLL(None)
def end_with_server():  # one whose client is cut off would wait for it for ever
    libc.prctl(1, signal.SIGKILL)
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    while True:
        wire, _ = listener.accept()
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        subprocess.Popen([sys.argv[2]], stdin=wire, stdout=wire, stderr=subprocess.DEVNULL,
                         preexec_fn=end_with_server)
        wire.close()
"""
MOUNT = ["-f", "-o", f"directport={PORT},dir_cache=no,attr_timeout=0,entry_timeout=0,negative_timeout=0"]
PREFIX = f"wm{os.getpid()}"
PATIENCE = 30


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise OSError(f"waited {PATIENCE} s for {what}")
        time.sleep(0.02)


def spawn(*command):
    return subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)


def why_not():
    """What this machine lacks, or None."""
    for tool in ("ip", "unshare", "nsenter", "sshfs"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if not any(map(os.path.exists, SFTP_SERVERS)):
        return "sftp-server (package openssh-sftp-server) is not installed"
    return None if os.path.exists("/dev/fuse") else "there is no /dev/fuse"


class Host:
    """One that is mounted anew after every cut: `mount_timeout` 0 waits for the server for ever, as NFS does ("hard")."""

    def __init__(self, network, index):
        self.name, self.space = f"{PREFIX}h{index}", f"{PREFIX}h{index}"
        self.server, own, outer = f"10.77.{index}.1", f"10.77.{index}.2", f"wm{index}"
        run("ip", "netns", "add", self.space)
        network.spaces.append(self.space)
        run("ip", "link", "add", outer, "netns", network.space, "type", "veth", "peer", "name", "wire", "netns", self.space)
        run("ip", "-n", network.space, "addr", "add", f"{self.server}/24", "dev", outer)
        run("ip", "-n", network.space, "link", "set", outer, "up")
        run("ip", "-n", self.space, "addr", "add", f"{own}/24", "dev", "wire")
        self.link("up")
        self.fs = None
        # Whoever enters later finds the namespaces by this process; it replaces itself, so its number stays.
        self.init = spawn("ip", "netns", "exec", self.space, "unshare", "--mount", "--uts", "sh", "-c",
                          f"mount -t tmpfs none /mnt; hostname {self.name} && exec sleep 100000")
        until(lambda: self.comm() == "sleep" or self.init.poll() is not None, "a host")
        if self.init.poll() is not None:
            raise OSError("mount and UTS namespaces are not to be had")

    def comm(self):
        return Path(f"/proc/{self.init.pid}/comm").read_text().strip()

    def inside(self):
        return ["nsenter", "--target", str(self.init.pid), "--net", "--mount", "--uts", f"--wd={TOP}"]

    def link(self, state):
        run("ip", "-n", self.space, "link", "set", "wire", state)

    def mount(self, retries=15):
        """`retries`: how often TCP sends what is not acknowledged, in doubling intervals, until the mount fails."""
        run(*self.inside()[:-1], "sh", "-c", f"echo {retries} > /proc/sys/net/ipv4/tcp_retries2")
        self.fs = spawn(*self.inside()[:-1], "sshfs", *MOUNT, f"{self.server}:{TOP}", TOP)
        until(lambda: self.is_mounted() or self.fs.poll() is not None, "sshfs")
        if not self.is_mounted():
            raise OSError("sshfs does not mount here")

    def is_mounted(self):
        return f" {TOP} fuse.sshfs " in Path(f"/proc/{self.init.pid}/mounts").read_text()

    def unmount(self):
        """Ends the file system, and with it every call that waits for it."""
        if self.fs:
            self.fs.send_signal(signal.SIGKILL)
            self.fs.wait()
            subprocess.run([*self.inside()[:-1], "umount", "--lazy", str(TOP)], capture_output=True, timeout=PATIENCE)
        self.fs = None

    def start(self, config, out, rank, n, *options):
        return start("merge", config, out, "--quiet", "--ranks", n, "--rank", rank, *options, prefix=self.inside())


class Network:
    """The server and n hosts. Raises OSError where this machine does not let us."""

    def __init__(self, n):
        self.spaces, self.hosts, self.server = [], [], None
        atexit.register(self.remove)
        self.space = f"{PREFIX}s"
        run("ip", "netns", "add", self.space)
        self.spaces.append(self.space)
        self.server = spawn("ip", "netns", "exec", self.space, sys.executable, "-c", SERVE, PORT,
                            next(filter(os.path.exists, SFTP_SERVERS)))
        for i in range(n):
            self.hosts.append(Host(self, i))
        until(self.listens, "the file server")
        for host in self.hosts:
            host.mount()

    def listens(self):
        return f":{PORT} " in run("ip", "netns", "exec", self.space, "cat", "/proc/net/tcp").replace(
            f":{PORT:04X} ", f":{PORT} ")

    def remove(self):
        for host in self.hosts:
            host.unmount()
            host.init.kill()
            host.init.wait()
        if self.server:
            self.server.kill()
            self.server.wait()
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=PATIENCE)
