"""Several processes as one run: who this one is, what all of them agree on, and what happens when one is lost.

`torchrun` starts the processes and tells each its rank. What ranks say to each other is JSON through the rendezvous
store and integers through tiny all-reduces on the CPU; nothing is pickled.
"""

import itertools
import json
import os
import platform
import re
import signal
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.nn.parallel import DistributedDataParallel

from plusx.engine.stop import Stopped, StopSignals
from plusx.engine.tensorfile import replacing
from plusx.errors import ConfigError, PlusxError, TrainingError

TIMEOUT = timedelta(seconds=90)  # of a collective, after which a rank counts as lost
JOIN_TIMEOUT = timedelta(seconds=40)  # for all ranks to come
GLANCE = 1.0  # seconds, at most, between two looks for the words of another rank, or for its failure
STOPPED_SECONDS = 10  # that a rank of this machine may be stopped (SIGSTOP) before it is ended
BEAT_SECONDS = 1.0  # between two signs of life of a rank
ROLL_CALL_SECONDS = 3.0  # for ranks to show that they live, once one is lost
SILENT_SECONDS = 60.0  # without a sign of life, after which nobody waits for the words of a rank
LEAVING_SECONDS = 5.0  # the same once this rank was told to stop, as torchrun tells the others of one that died
PASSING_SECONDS = 5  # before a stop that one rank heard of is passed on to a rank that did not
FOLDER = "failures"  # of a run: the first failure of each rank


class RankError(TrainingError):
    """Another rank failed or was lost."""


class World:
    """This process among those of a run; alone unless torchrun started several.

    Attributes:
        rank: 0 leads: it decides, writes and tells.
        size: number of processes.
        step: the one being made, for messages.
        signals: that a run listens for, if one does.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size = rank, size
        self.step = 0
        self.signals: StopSignals | None = None
        self._stopping = False
        self._store = store
        self._announced: BaseException | None = None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def device(self, name: str | None) -> torch.device:
        """The device of this rank: of several GPUs each process of a machine has its own.

        Raises:
            ConfigError: the machine has fewer GPUs than processes.
        """
        device = torch.device(name or "cpu")
        if device.type == "cuda" and self.size > 1:
            own, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if own >= there:
                processes = os.environ.get("LOCAL_WORLD_SIZE", "several")
                message = f"engine.device: {processes} processes on a machine with GPUs for {there}."
                raise ConfigError(message, "Start as many processes as it has GPUs, or set engine.device=cpu.")
            device = torch.device("cuda", own)
            torch.cuda.set_device(device)
        return device

    def total(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place; the same bits on every rank."""
        if self.size > 1:
            self._all_reduce(values, dist.ReduceOp.SUM)
        return values

    def gathering(self, net: Any, last: bool) -> AbstractContextManager[None]:
        """Where gradients of several micro-batches add up; those of the last are then made the mean of all ranks."""
        return nullcontext() if self.size == 1 or last else net.no_sync()

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replaces float tensors by their means over ranks, in place."""
        if self.size > 1 and tensors:
            flat = self.total(torch.cat([t.flatten() for t in tensors])) / self.size
            for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def highest(self, *values: int) -> list[int]:
        """Of each value the highest of all ranks; one tiny all-reduce."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values)
        self._all_reduce(shared, dist.ReduceOp.MAX)
        return [int(v) for v in shared]

    def tell(self, topic: str, value: Any = None) -> None:
        """Rank 0: lets the others go on from `told`."""
        if self.size > 1:
            self._store.set(topic, json.dumps(value))

    def told(self, topic: str) -> Any:
        """Other ranks: waits for what rank 0 tells.

        Raises:
            RankError: another rank failed, or the store is gone, and rank 0 with it.
        """
        return self._said(topic, 0)

    @contextmanager
    def in_order(self, topic: str) -> Iterator[None]:
        """Rank 0 goes first; the others enter when it has left."""
        if not self.leads:
            self.told(topic)
        yield
        if self.leads:
            self.tell(topic)

    def meet(self, topic: str) -> None:
        """Returns once every rank is here, however long one takes; a collective would give it up after `TIMEOUT`.

        Raises:
            RankError: a rank failed or shows no life.
        """
        if self.size == 1:
            return
        self._store.set(f"{topic}/{self.rank}", "null")
        if self.leads:
            for rank in range(1, self.size):
                self._said(f"{topic}/{rank}", rank)
            self.tell(topic)
        self.told(topic)

    def compare(self, values: Mapping[str, str]) -> None:
        """All ranks must come with the same values; rank 0 looks, so that the work grows with their number alone.

        Raises:
            RankError: what differs, and on which rank.
        """
        if self.size == 1:
            return
        self._store.set(f"values/{self.rank}", json.dumps(values))
        if self.leads:
            found = (self._differing(rank, values) for rank in range(1, self.size))
            self.tell("differing", next(filter(None, found), ""))
        if odd := self.told("differing"):
            raise RankError(odd, "Give every process the same packages and data.")

    def _differing(self, rank: int, values: Mapping[str, str]) -> str:
        """What another rank has otherwise than rank 0; '' for nothing."""
        theirs = self._said(f"values/{rank}", rank)
        odd = [key for key in {**values, **theirs} if theirs.get(key) != values.get(key)]
        said = "; ".join(f"{key} is {theirs.get(key)}, on rank 0 {values.get(key)}" for key in odd)
        return f"rank {rank} differs: {said}." if odd else ""

    def stopping(self) -> None:
        """Lets the others know that this rank heard a signal and waits for them."""
        self._stopping = True
        if self.size > 1:
            with suppress(RuntimeError):
                self._store.set("stopping", "")

    def watch(self, done: threading.Event, neighbour: int) -> None:
        """What a thread of each rank does until the end: show that it lives, and look after the next of its machine.

        The main thread can do neither while it waits for other ranks or evaluates its part.
        """
        stopped = heard = beats = 0
        while not done.wait(BEAT_SECONDS):
            beats += 1
            stopped = stopped + 1 if _is_stopped(neighbour) else 0
            if stopped >= STOPPED_SECONDS:  # all would wait for it in vain; one that is merely slow is left alone
                with suppress(OSError):
                    os.kill(neighbour, signal.SIGKILL)
            try:
                self._store.set(f"alive/{self.rank}", str(beats))
                heard += self._store.check(["stopping"])
                if heard == PASSING_SECONDS and not self._stopping:
                    os.kill(os.getpid(), signal.SIGTERM)  # which a run that heard a Ctrl-C takes for no second one
            except RuntimeError:  # the store is gone, and with it whoever would listen
                return

    def lost(self) -> RankError:
        """Why the other ranks do not answer: the first failure that one of them told, or who is missing."""
        again = "The same command continues the run."
        try:
            others = [r for r in range(self.size) if r != self.rank]
            before = [self._sign(r) for r in others]
            if failure := self._failure():
                return RankError(failure["message"], failure["hint"])
            missing = [r for r, sign in zip(others, before, strict=True) if self._sign(r) == sign]
        except RuntimeError:  # the store lived in rank 0
            missing = [0]
        who = "rank " + ", ".join(map(str, missing)) if missing else "the connection between ranks"
        return RankError(f"{who} lost at step {self.step}.", again)

    def explain(self, error: BaseException) -> RankError | None:
        """A failed exchange of gradients as what it means; None for any other error."""
        if isinstance(error, RankError):
            return error
        spoken = re.search("gloo|nccl|connection|process group", str(error), re.IGNORECASE)
        return self.lost() if self.size > 1 and isinstance(error, RuntimeError) and spoken else None

    def announce(self, error: BaseException) -> None:
        """Lets the other ranks know of a failure; the first one counts, and all but its rank stay silent."""
        if self.size == 1 or error is self._announced:
            return
        self._announced = error
        bug = f"{type(error).__name__}: {error}"
        message, hint = (error.message, error.hint) if isinstance(error, PlusxError) else (bug, "")
        if self.rank and not isinstance(error, RankError):
            message = f"rank {self.rank}: {message}"
        with suppress(RuntimeError):
            mine = json.dumps({"rank": self.rank, "message": message, "hint": hint})
            first = json.loads(self._store.compare_set("failure", "", mine))["rank"] == self.rank
            if isinstance(error, PlusxError):
                error.message, error.told_elsewhere = message, not first

    def record(self, error: BaseException, folder: Path) -> None:
        """Tells the other ranks of a failure and writes down the first; a stop is none, nor what began elsewhere."""
        if isinstance(error, Stopped):
            error.told_elsewhere = not self.leads
            return
        self.announce(error)
        if isinstance(error, RankError) and error.told_elsewhere:
            time.sleep(ROLL_CALL_SECONDS)  # whoever tells it goes first: torchrun ends all others once one has left
        path = folder / FOLDER / f"rank-{self.rank}.json"
        asked_for = isinstance(error, SystemExit | KeyboardInterrupt)
        if isinstance(error, RankError) or asked_for or not folder.is_dir() or path.exists():
            return
        values = {"rank": self.rank, "host": platform.node(), "process": os.getpid(), "step": self.step}
        with suppress(OSError):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_text(json.dumps({**values, "failure": traceback.format_exc()}, indent=1) + "\n")

    def _sign(self, rank: int) -> bytes:
        """The last sign of life of a rank; each is another."""
        key = f"alive/{rank}"
        return bytes(self._store.get(key)) if self._store.check([key]) else b""

    def _said(self, topic: str, rank: int) -> Any:
        """What a rank says, waited for as long as it lives and no rank fails."""
        try:
            pause, sign, seen = 0.01, b"", time.monotonic()
            while not self._store.check([topic]):
                if self._store.check(["failure"]) and not self._store.check([topic]):
                    raise self.lost()
                patience = LEAVING_SECONDS if self.signals and self.signals.received else SILENT_SECONDS
                if (now := self._sign(rank)) != sign:
                    sign, seen = now, time.monotonic()
                elif time.monotonic() - seen > patience:
                    raise self.lost()
                time.sleep(pause)
                pause = min(1.5 * pause, GLANCE)
            return json.loads(self._store.get(topic))
        except RuntimeError as error:
            raise self.lost() from error

    def _failure(self) -> dict[str, Any] | None:
        """The first failure that a rank told, waited for a moment."""
        end = time.monotonic() + ROLL_CALL_SECONDS
        while not self._store.check(["failure"]):
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
        found: dict[str, Any] = json.loads(self._store.get("failure"))
        return found

    def _all_reduce(self, values: Tensor, operation: Any) -> None:
        try:
            dist.all_reduce(values, operation)
        except RuntimeError as error:
            raise self.lost() from error


ALONE = World()


def shared(module: nn.Module, world: World) -> nn.Module:
    """A network whose gradients become the means of all ranks; alone, the network itself."""
    if world.size == 1:
        return module
    device = next(module.parameters()).device
    world.meet("network")  # one may have read its images for much longer than another
    # Statistics of batch norm are made equal by the trainer, once a step and as a mean of all ranks.
    net = DistributedDataParallel(module, [device.index] if device.type == "cuda" else None)
    net.broadcast_buffers = False
    return net


def leads() -> bool:
    """Whether this process speaks for the run: it is alone, or rank 0."""
    return os.environ.get("RANK", "0") == "0" or "WORLD_SIZE" not in os.environ


@contextmanager
def joined(folder: Path, device: str | None) -> Iterator[World]:
    """The ranks that torchrun started, met and ready to talk; a process that it did not start is alone.

    Arguments:
        folder: the run folder, where the first failure of each rank is recorded.
        device: as `engine.device`; GPUs talk through NCCL, CPUs through gloo.

    Raises:
        RankError: not all ranks came, or their addresses are wrong.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    store, rank = _meet(size)
    world = World(rank, size, store)
    if world.leads and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        for old in (folder / FOLDER).glob("rank-*.json"):  # of an earlier command; a restart keeps what led to it
            old.unlink(missing_ok=True)
    done = threading.Event()
    try:
        gpus = torch.cuda.is_available() and (device or "cuda").startswith("cuda")
        with _clear(size):
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT
            )
        threading.Thread(target=world.watch, args=(done, _neighbour(store)), daemon=True).start()
        yield world
        dist.destroy_process_group()
    except BaseException as error:
        world.record(error, folder)
        raise
    finally:
        done.set()


_runs = itertools.count()  # of this process: the words of one are not those of the next


def _meet(size: int) -> tuple[Any, int]:
    """The store that all ranks share, and the rank of this process, once all of them came."""
    attempt = f"plusx/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{next(_runs)}"
    try:
        host, port, rank = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"], int(os.environ["RANK"])
    except KeyError as error:
        raise RankError(f"WORLD_SIZE is {size}, but {error.args[0]} is not set.", "Start with torchrun.") from error
    first = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"  # else torchrun holds the store
    end = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    with _clear(size):
        _reach(host, port, end, first=first)
        plain = TCPStore(host, int(port), size, first, JOIN_TIMEOUT, wait_for_workers=False, multi_tenant=True)
        store = PrefixStore(attempt, plain)
        store.set(f"here/{rank}", "")
        store.add("here", 1)
        while store.add("here", 0) < size:
            if time.monotonic() > end:
                missing = [r for r in range(size) if not store.check([f"here/{r}"])]
                names = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
                raise RankError(f"rank {names} of {size} did not come.", "See whether torchrun runs on every node.")
            time.sleep(0.05)
    return store, rank


def _reach(host: str, port: str, end: float, *, first: bool) -> None:
    """Returns once the meeting place can be reached, which may be later than this process started; `first` makes it.

    PyTorch would wait too, but prints a trace at each try, which can take it minutes.
    """
    while True:
        try:
            if first:
                socket.getaddrinfo(host, port)
            else:
                socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise RuntimeError(error.strerror or str(error)) from error
            time.sleep(0.5)


@contextmanager
def _clear(size: int) -> Iterator[None]:
    """Failures to meet, named."""
    try:
        yield
    except (dist.DistError, RuntimeError, ValueError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).strip().splitlines()[0][:200]
        message = f"rank {os.environ.get('RANK')} of {size} cannot meet the others at {where}: {reason}"
        raise RankError(message, "Give all nodes the same --rdzv-endpoint, with a free port.") from error


def _neighbour(store: Any) -> int:
    """The process id of the next rank on this machine; its own where there is no other."""
    host = os.environ.get("GROUP_RANK", platform.node())  # several machines may have one name
    own = int(os.environ.get("LOCAL_RANK", "0"))
    store.set(f"process/{host}/{own}", str(os.getpid()))
    following = f"process/{host}/{(own + 1) % int(os.environ.get('LOCAL_WORLD_SIZE', '1'))}"
    store.wait([following], JOIN_TIMEOUT)
    return int(store.get(following))


def _is_stopped(pid: int) -> bool:
    """Whether another process is stopped (SIGSTOP); a dead one is noticed by its closed connections."""
    try:
        return pid != os.getpid() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False
