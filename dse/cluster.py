"""Evaluates on a Dask cluster: processes of this machine, a running scheduler, or jobs of LSF, SLURM or SGE.

``--cluster local`` starts worker processes here, ``--cluster tcp://host:8786`` uses a scheduler that runs
already, and ``--cluster FILE.yaml`` submits jobs that each start workers (see :class:`ClusterConfig`)::

    scheduler: slurm
    queue: compute
    project: my-group
    jobs: 10
    cores: 16
    memory_gb: 32
    walltime_min: 240
    job_extra: ["--exclusive"]

Workers need the same bittaper and the same files as the coordinator. One that dies loses nothing: Dask
gives its chunk to another. Results are those of one process, whatever the cluster does.
"""

from __future__ import annotations

import functools
import pickle
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, FiniteFloat, ValidationError

from dse.evaluation import ChunkSizer, Numbered, WorkerSpec, evaluate_chunk, take_chunk
from dse.log import Outcome
from hwsim.trace import BittaperError, InputError, Record, from_validation, read_text, unknown_name

if TYPE_CHECKING:
    from dse.problem import Problem

SUBMIT_COMMANDS = {"lsf": "bsub", "slurm": "sbatch", "sge": "qsub"}

CONNECT_TIMEOUT_S = 10
CHUNKS_PER_WORKER = 2
"""Chunks under way for each worker, so that none waits for the coordinator."""


class ClusterConfig(Record):
    """Jobs of a batch system, each of which starts one single-threaded worker a core."""

    schema_version: Literal["1.0"] = "1.0"
    scheduler: Literal["lsf", "slurm", "sge"]
    queue: str | None = Field(None, description="Queue or partition; null: the batch system's default.")
    project: str | None = Field(None, description="Project or account that is charged.")
    jobs: int = Field(ge=1, description="Jobs to submit.")
    cores: int = Field(1, ge=1, description="Cores, and so workers, of a job.")
    memory_gb: FiniteFloat = Field(gt=0, description="Memory of a job; GB = 1e9 bytes.")
    walltime_min: int = Field(60, ge=1, description="After which the batch system ends a job.")
    job_extra: tuple[str, ...] = Field((), description="More directives, without the #BSUB, #SBATCH or #$ in front.")
    prologue: tuple[str, ...] = Field((), description="Shell lines before the workers start, to activate Python say.")
    python: str | None = Field(None, description="Python of the nodes; null: the one that runs here.")
    interface: str | None = Field(None, description="Network interface that reaches the nodes, for example ib0.")
    log_directory: str | None = Field(None, description="Where jobs write what they print; null: as the system does.")
    local_directory: str | None = Field(None, description="Scratch folder on the nodes.")

    def walltime(self) -> str:
        """As the batch system writes it."""
        hours, minutes = divmod(self.walltime_min, 60)
        return f"{hours:02d}:{minutes:02d}" + ("" if self.scheduler == "lsf" else ":00")


def read_cluster(path: Path | str) -> ClusterConfig:
    """Read and check a cluster file.

    Raises:
        InputError: If it is missing, not YAML, or breaks a rule.
    """
    try:
        value = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({getattr(error, 'problem', 'unreadable')})") from None
    if not isinstance(value, Mapping):
        raise InputError(f"{path}: a cluster file is a mapping of fields, for example 'scheduler: slurm'")
    try:
        config = ClusterConfig.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            raise unknown_name(f"field in {path}", str(first["loc"][0]), ClusterConfig.model_fields) from None
        raise from_validation(error, str(path)) from None
    if config.scheduler == "sge" and config.cores > 1 and not any(line.startswith("-pe") for line in config.job_extra):
        raise InputError(
            f"{path}: cores = {config.cores}: SGE gives a job one core unless job_extra names a parallel environment, "
            f"for example '-pe smp {config.cores}'"
        )
    return config


def _dask() -> tuple[Any, Any]:
    try:
        import dask_jobqueue  # noqa: PLC0415 - of the extra `cluster`
        import distributed  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InputError(f"--cluster needs the package '{error.name}': pip install 'bittaper[cluster]'") from None
    return distributed, dask_jobqueue


def start_jobs(config: ClusterConfig) -> Any:
    """Make the Dask cluster of a batch system, before any job is submitted.

    Returns:
        A ``dask_jobqueue`` cluster; ``job_script()`` says what it will submit.
    """
    _, jobqueue = _dask()
    kinds = {"lsf": jobqueue.LSFCluster, "slurm": jobqueue.SLURMCluster, "sge": jobqueue.SGECluster}
    account = "account" if config.scheduler == "slurm" else "project"
    return kinds[config.scheduler](
        queue=config.queue,
        cores=config.cores,
        processes=config.cores,
        memory=f"{config.memory_gb:g} GB",
        walltime=config.walltime(),
        job_extra_directives=list(config.job_extra),
        job_script_prologue=list(config.prologue),
        python=config.python,
        interface=config.interface,
        log_directory=config.log_directory,
        local_directory=config.local_directory,
        scheduler_options={"dashboard_address": None},
        **{account: config.project},
    )


def connect(spec: WorkerSpec, cluster: str, workers: int) -> DaskBackend:
    """Start or find a cluster.

    Args:
        spec: What workers evaluate.
        cluster: ``local``, the address of a scheduler, or a YAML file.
        workers: Processes of a local cluster.

    Raises:
        InputError: If the extra is missing, the file is wrong, the batch system is not there, nobody answers at
            the address, or the evaluator cannot be sent to other processes.
    """
    pickled = spec.pickled()
    if pickled is None:
        raise InputError(f"--cluster {cluster}: the evaluator that stands in for the simulator cannot be pickled")
    config = read_cluster(cluster) if Path(cluster).suffix in {".yaml", ".yml"} else None
    distributed, _ = _dask()
    if config is not None:
        command = SUBMIT_COMMANDS[config.scheduler]
        if shutil.which(command) is None:  # Dask would wait for jobs that nobody submitted
            raise InputError(
                f"{cluster}: scheduler = '{config.scheduler}': there is no command '{command}' here; run this where "
                f"jobs are submitted"
            )
        owned = start_jobs(config)
        owned.scale(jobs=config.jobs)
        return DaskBackend(pickled, distributed.Client(owned), owned)
    if cluster == "local":
        owned = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        return DaskBackend(pickled, distributed.Client(owned), owned)
    if ":" not in cluster:
        raise InputError(f"--cluster {cluster}: must be local, an address such as tcp://host:8786, or a YAML file")
    try:
        client = distributed.Client(cluster, timeout=CONNECT_TIMEOUT_S)
    except (OSError, ValueError, TimeoutError, socket.gaierror) as error:
        why = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise InputError(f"--cluster {cluster}: no Dask scheduler answers there ({why})") from None
    return DaskBackend(pickled, client, None)


@functools.lru_cache(maxsize=2)
def _problem(spec: bytes) -> Problem:
    """A worker's problem, made once."""
    made: WorkerSpec = pickle.loads(spec)
    return made.build()


def _evaluate(spec: bytes, first: int, canonical: Sequence[Mapping[str, Any]]) -> tuple[list[Outcome], float]:
    """Evaluate a chunk on a worker; returns outcomes and seconds."""
    problem = _problem(spec)
    started_s = time.perf_counter()
    outcomes = evaluate_chunk(problem, first, [problem.space.decode(design) for design in canonical])
    return outcomes, time.perf_counter() - started_s


class DaskBackend:
    """Evaluates chunks on the workers of a Dask cluster.

    Args:
        spec: A pickled :class:`dse.evaluation.WorkerSpec`.
        client: Of the cluster.
        owned: The cluster, where it was started for this run and ends with it.
    """

    def __init__(self, spec: bytes, client: Any, owned: Any) -> None:
        self._spec = spec
        self._client = client
        self._owned = owned
        self._sizer = ChunkSizer()

    def evaluate(self, designs: Sequence[Numbered]) -> Iterator[Outcome]:
        """Give the outcome of each design once, in the order of completion.

        Raises:
            BittaperError: If the scheduler is lost, or its workers lack bittaper.
            Exception: What an evaluation raised, other than that a design cannot run.
        """
        distributed, _ = _dask()
        waiting = deque(designs)
        running: dict[Any, list[Numbered]] = {}
        completed = distributed.as_completed()

        def submit(chunk: list[Numbered]) -> None:
            canonical = [design.canonical() for _, design in chunk]
            # Not pure: Dask would otherwise hash the arguments to find equal tasks, of which there are none.
            future = self._client.submit(_evaluate, self._spec, chunk[0][0], canonical, pure=False)
            running[future] = chunk
            completed.add(future)

        def fill() -> None:
            workers = max(1, sum(self._client.nthreads().values()))
            while waiting and len(running) < CHUNKS_PER_WORKER * workers:
                submit(take_chunk(waiting, self._sizer.size(len(waiting), workers)))

        try:
            fill()
            for future in completed:
                chunk = running.pop(future)
                error = future.exception()
                if isinstance(error, distributed.KilledWorker):
                    if len(chunk) == 1:
                        why = "its worker process was ended again and again on the cluster"
                        yield Outcome(chunk[0][0], {}, why, unknown=True)
                    for item in chunk if len(chunk) > 1 else ():  # which of them it was is not known
                        submit([item])
                elif error is not None:
                    raise _explained(error)
                else:
                    outcomes, seconds = future.result()
                    self._sizer.learn(len(outcomes), seconds)
                    yield from outcomes
                fill()
        except (distributed.CancelledError, distributed.comm.CommClosedError, TimeoutError) as error:
            raise BittaperError(
                f"the cluster was lost ({type(error).__name__}); what is finished is recorded, and the same command "
                f"goes on from there"
            ) from None

    def close(self) -> None:
        """Leave the cluster, and end it where it was started for this run."""
        endings: list[Callable[[], None]] = [self._client.close]
        if self._owned is not None:
            endings.append(self._owned.close)
        for end in endings:
            end()


def _explained(error: BaseException) -> BaseException:
    if isinstance(error, ModuleNotFoundError):
        return BittaperError(f"a worker of the cluster lacks the package '{error.name}': install bittaper there too")
    return error
