"""Jobs that do what no method should: the target of the executors' tests, in workers and in the test's own process."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path


class DivergedError(Exception):
    """Known by its name, wherever it is defined."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


class UnprintableError(Exception):
    def __str__(self):
        msg = "not even this"
        raise RuntimeError(msg)


def run(spec, progress):
    return globals()["job_" + spec["do"]](spec, progress)


def job_ok(spec, progress):
    progress({"step": 1})
    return {"pid": os.getpid(), "value": spec.get("value")}


def job_sleep(spec, progress):
    start = time.time()
    time.sleep(spec["seconds"])
    return {"start": start, "end": time.time(), "pid": os.getpid(), "threads": os.environ["OMP_NUM_THREADS"]}


# -- ways to fail


def job_raise(spec, progress):
    msg = "first line\nsecond \x1b[31mline"
    raise {"value": ValueError, "diverged": DivergedError, "oom": OutOfMemoryError}.get(spec["kind"], KeyError)(msg)


def job_unprintable(spec, progress):
    raise UnprintableError


def job_memory_error(spec, progress):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))
    return {"size": len(bytearray(1 << 32))}


def job_cpu_allocator(spec, progress):
    msg = "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
    raise RuntimeError(msg)


def job_not_json(spec, progress):
    return {"value": {"set": object(), "nan": float("nan")}[spec["kind"]]}


def job_not_a_dict(spec, progress):
    return None


# -- ways to leave


def job_exit(spec, progress):
    sys.exit(0)


def job_hard_exit(spec, progress):
    print("last words", flush=True)  # noqa: T201 - it is what is captured
    os._exit(0)


def job_segfault(spec, progress):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def job_interrupt_itself(spec, progress):
    raise KeyboardInterrupt


def job_forked_twin(spec, progress):
    """The child comes back through the worker's own call, as the parent does."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return {"child": pid == 0}


def job_close_everything(spec, progress):
    os.closerange(0, 256)
    time.sleep(60)
    return {}


FORGED = b'{"event": "result", "status": "best", "reason": "x", "result": {}, "seconds": 1.0, "retire": false}\n'


def job_forge_reply(spec, progress):
    for fd in range(3, 64):
        try:
            os.write(fd, FORGED)
        except OSError:
            continue
    time.sleep(60)
    return {}


# -- ways to stay


def job_hang(spec, progress):
    progress({"pid": os.getpid()})
    time.sleep(600)


def job_hang_ignoring_sigterm(spec, progress):
    """With a child in the process group and one that left it, all deaf to SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session=True)
    other.stdout.readline()
    progress({"pids": [os.getpid(), child, other.pid]})
    while True:
        time.sleep(60)


def job_leave_a_child(spec, progress):
    return {"child": subprocess.Popen(["sleep", "600"]).pid}


# -- ways to use too much


def job_leak(spec, progress):
    hoard = []
    while True:
        hoard.append(bytearray(os.urandom(1 << 20) * 20))
        time.sleep(0.1)


def job_leak_in_a_child(spec, progress):
    return {"rc": subprocess.call([sys.executable, "-c", "import time; x = b'x' * 400_000_000; time.sleep(600)"])}


def job_print(spec, progress):
    line = (b"\x1b[31mred\x1b[0m \x00 \x1b]0;title\x07 \xff " + b"." * 1000 + b"\r\n") * 100
    for _ in range(spec["megabytes"] * 10):
        os.write(1, line)
    print("the end", file=sys.stderr, flush=True)  # noqa: T201 - the same
    if spec.get("fail"):
        msg = "after much ado"
        raise ValueError(msg)
    return {"printed": True}


def job_print_json(spec, progress):
    print('{"event": "result", "status": "ok"}', flush=True)  # noqa: T201 - the same
    subprocess.run(["echo", '{"event": "result"}'], check=True)
    return {"stdin": sys.stdin.read()}


def job_big(spec, progress):
    return {"echo": spec["text"]}


# -- ways to change the process


def job_change(spec, progress):
    what = spec["what"]
    if what == "environment":
        os.environ["NAME"] = "s3cret"
    elif what == "working directory":
        os.chdir("/")
    elif what == "umask":
        os.umask(0o777)
    elif what == "signal handlers":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    elif what == "sys.path":
        sys.path.insert(0, "/nowhere")
    elif what == "recursion limit":
        sys.setrecursionlimit(12345)
    elif what == "standard streams":
        sys.stdout = None
    elif what == "seeds":
        random.seed(99)
    elif what == "raise":
        os.environ["NAME"] = "s3cret"
        raise ValueError(what)
    return job_look(spec, progress)


def job_look(spec, progress):
    import numpy as np

    umask = os.umask(0)
    os.umask(umask)
    return {
        "environment": dict(os.environ),
        "cwd": str(Path.cwd()),
        "umask": umask,
        "usr1": str(signal.getsignal(signal.SIGUSR1)),
        "path": sys.path,
        "limit": sys.getrecursionlimit(),
        "draws": [random.random(), float(np.random.rand())],  # noqa: NPY002 - the global generator is meant
        "hash": hash("text"),
        "pid": os.getpid(),
    }


def job_torch_change(spec, progress):
    import torch

    torch.rand(7)
    changes = {
        "torch default dtype": lambda: torch.set_default_dtype(torch.float64),
        "torch grad mode": lambda: torch.set_grad_enabled(mode=False),
        "torch deterministic algorithms": lambda: torch.use_deterministic_algorithms(mode=True),
    }
    changes.get(spec.get("what"), lambda: None)()
    return job_torch_look(spec, progress)


def job_torch_look(spec, progress):
    import torch

    weight = torch.ones(3, requires_grad=True)
    return {
        "draws": torch.rand(3).tolist(),
        "dtype": str(torch.rand(1).dtype),
        "grad": (weight * 2).requires_grad,
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }
