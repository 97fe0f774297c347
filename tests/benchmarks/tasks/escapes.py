"""Attempts to leave the sandbox: functions that do harm outside, and say so if it worked.

Each attempt is the body of a function of `host`: paths, process numbers and ports outside. It
returns whether it worked, or raises. `HARMFUL` ones are never run without a sandbox.
"""

from __future__ import annotations

FILES = {
    "read a file": "return open(host['thesis']).read() == 'a year of work'",
    "read through parent folders": (
        "return open('../' * 30 + host['thesis']).read() == 'a year of work'"
    ),
    "open for writing": "open(host['thesis'], 'w')\nreturn True",
    "truncate by name": "os.truncate(host['thesis'], 0)\nreturn True",
    "change a mode": "os.chmod(host['thesis'], 0)\nreturn True",
    "change a mode at a folder": "os.chmod(host['folder'], 0)\nreturn True",
    "change times": "os.utime(host['thesis'], (0, 0))\nreturn True",
    "change an owner": "os.chown(host['thesis'], os.getuid(), os.getgid())\nreturn True",
    "remove a file": "os.unlink(host['thesis'])\nreturn True",
    "rename a file": "os.rename(host['thesis'], host['folder'] + '/stolen')\nreturn True",
    "make a file": "open(host['folder'] + '/new', 'w')\nreturn True",
    "make a folder": "os.mkdir(host['folder'] + '/new')\nreturn True",
    "make a link there": "os.symlink('/', host['folder'] + '/new')\nreturn True",
    "make a pipe there": "os.mkfifo(host['folder'] + '/new')\nreturn True",
    "write through a hard link": (
        "os.link(host['thesis'], 'own')\nopen('own', 'w').write('x')\nreturn True"
    ),
    "write through a symbolic link": (
        "os.symlink(host['thesis'], 'own')\nopen('own', 'w').write('x')\nreturn True"
    ),
    "list a folder": "return 'thesis' in os.listdir(host['folder'])",
    "read the accounts": "return 'root' in open('/etc/passwd').read()",
    "look at processes": "return any(name.isdigit() for name in os.listdir('/proc'))",
    "read a process's memory map": "return bool(open('/proc/self/maps').read())",
    "read an environment": "return bool(open(f\"/proc/{host['victim']}/environ\").read())",
    "write shared memory": "open(host['shared'], 'w')\nreturn True",
}
NETWORK = {
    "connect to a UNIX socket": (
        "c = socket.socket(socket.AF_UNIX)\nc.connect(host['stream'])\nc.send(b'x')\nreturn True"
    ),
    "send to a UNIX socket": (
        "c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "c.sendto(b'x', host['datagram'])\nreturn True"
    ),
    "send to a UNIX socket from a pair": (
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "a.sendto(b'x', host['datagram'])\nreturn True"
    ),
    "connect to an abstract UNIX socket": (
        "c = socket.socket(socket.AF_UNIX)\nc.connect('\\0' + host['abstract'])\nreturn True"
    ),
    "connect over TCP": "socket.create_connection(('127.0.0.1', host['port']), 2)\nreturn True",
    "send over UDP": (
        "c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "c.sendto(b'x', ('127.0.0.1', host['port']))\nreturn True"
    ),
    "leave shared memory": "return C.shmget(host['key'], 1 << 20, 0o1600) >= 0",
    "leave a message queue": "return C.msgget(host['key'], 0o1600) >= 0",
    "leave a semaphore": "return C.semget(host['key'], 1, 0o1600) >= 0",
}
PROCESSES = {
    "outlive the deadline": (
        "C.prctl(1, 0, 0, 0, 0)\nfor call in (os.setsid, os.setpgrp, os.fork):\n"
        "    try:\n        call()\n    except OSError:\n        pass\n"
        "for number in range(1, 64):\n    try:\n        signal.signal(number, signal.SIG_IGN)\n"
        "    except (OSError, ValueError):\n        pass\ntime.sleep(60)"
    ),
    "leave a daemon": (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n"
        "    os._exit(0)\nreturn True"
    ),
    "start 100 processes": (
        "for _ in range(100):\n    if os.fork() == 0:\n        time.sleep(1)\n        os._exit(0)\n"
        "return True"
    ),
    "run a shell": (
        "return subprocess.run(['/bin/sh', '-c', 'exit 7'], check=False).returncode == 7"
    ),
    "become another program": "os.execv('/bin/sh', ['sh', '-c', 'sleep 60'])",
    "end a process": "os.kill(host['victim'], signal.SIGTERM)\nreturn True",
    "slow a process down": "os.setpriority(os.PRIO_PROCESS, host['victim'], 19)\nreturn True",
    "limit a process": (
        "resource.prlimit(host['victim'], resource.RLIMIT_NOFILE, (4, 4))\nreturn True"
    ),
    "trace a process": "return C.ptrace(0x4206, host['victim'], 0, 0) == 0",
    "trace the tests": "return C.ptrace(0x4206, os.getppid(), 0, 0) == 0",
    "end the tests": "os.kill(os.getppid(), signal.SIGKILL)\nreturn True",
    "get namespaces": "return C.unshare(0x10000000 | 0x20000) == 0",
    "leave the root": "os.chroot('.')\nreturn True",
    "mount a file system": "return C.mount(b'tmpfs', b'.', b'tmpfs', 0, None) == 0",
    "become root": "os.setuid(0)\nreturn os.getuid() == 0 and C.chroot(b'.') == 0",
    "change the host's name": "return C.sethostname(b'mine', 4) == 0",
    "hide memory in a file": "return os.memfd_create('x') >= 0",
    "use io_uring": "return C.syscall(425, 1, ctypes.create_string_buffer(200)) >= 0",
    "open a process": "return C.syscall(434, os.getppid(), 0) >= 0",
}
RESOURCES = {
    "run for ever": "while True:\n    pass",
    "run for ever, ignoring the limit": (
        "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass"
    ),
    "sleep for ever": "time.sleep(1000)",
    "take 3 GB of memory": "return len(bytearray(3 << 30)) > 0",
    "write a long file": "open('own', 'wb').write(bytes(32 << 20))\nreturn True",
    "make a long file with a hole": "open('own', 'wb').truncate(1 << 30)\nreturn True",
    "fill the disk": (
        "for n in range(40):\n    open(f'{n}', 'wb').write(bytes(15 << 20))\n"
        "time.sleep(0.5)\nreturn True"
    ),
    "make 100,000 files": (
        "for n in range(100_000):\n    open(f'{n}', 'w').close()\ntime.sleep(0.5)\nreturn True"
    ),
    "hide 100,000 files": (
        "os.mkdir('d', 0o300)\nfor n in range(100_000):\n    open(f'd/{n}', 'w').close()\n"
        "time.sleep(0.5)\nreturn True"
    ),
    "open 1000 files": "return len([os.dup(0) for _ in range(1000)]) == 1000",
    "raise the limits": ("resource.setrlimit(resource.RLIMIT_NOFILE, (9999, 9999))\nreturn True"),
}
THREADS = {
    "start 500 threads": (
        "threading.stack_size(1 << 16)\nfor _ in range(500):\n"
        "    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\nreturn True"
    ),
}
"""Where the kernel counts the threads of a program by themselves (see `limits.confine`)."""
HARMFUL = {
    "write Python's own files": "open(os.__file__, 'a')\nreturn True",
    "write the linker's cache": "open('/etc/ld.so.cache', 'r+b')\nreturn True",
    "write a device": "open('/dev/mem', 'wb')\nreturn True",
    "signal a group": "os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)\nreturn True",
    "reboot": "return C.syscall(169 if 'x86' in os.uname().machine else 142, 0, 0, 0) != -1",
    "load a module": "return C.syscall(175 if 'x86' in os.uname().machine else 105, 0, 0, 0) != -1",
    "call with the numbers of x32": "return C.syscall(0x40000000 + 39) > 0",
}
HEADING = """
import ctypes, os, resource, signal, socket, subprocess, threading, time
C = ctypes.CDLL(None, use_errno=True)
"""


def program_of(body: str) -> str:
    """The program of an attempt."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    return f"{HEADING}\ndef attempt(host):\n{indented}"
