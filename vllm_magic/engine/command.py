"""The command line and environment of ``vllm serve``."""

from __future__ import annotations

import errno
import getpass
import os
import re
import secrets
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_magic.engine import address as addresses
from vllm_magic.engine import cache, executable, free_port
from vllm_magic.engine import port as ports
from vllm_magic.engine.address import LOOPBACK
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.flags import flag_table, flags
from vllm_magic.errors import InvalidOption, StartFailed, reason
from vllm_magic.linux import lookups
from vllm_magic.linux.marks import MARK

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vllm_magic.engine.spec import ServerSpec

SLEEP = "--enable-sleep-mode"
LORA = "--enable-lora"
# Keeps the polling of a server out of its log (vLLM 0.32, entrypoints/launchers/cli_args.py).
QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")
# Variables in the environment of a notebook's kernel that are only for the kernel.
OF_THE_KERNEL = ("JPY_PARENT_PID", "JPY_SESSION_NAME", "JPY_INTERRUPT_EVENT", "MPLBACKEND")
OWN = "VLLM_MAGIC_"  # the prefix of this package's variables, which vLLM would take for misspelled variables of its own
_OF_A_SERVICE = re.compile(r"VLLM_SERVICE_(?:HOST|PORT\w*)|VLLM_PORT_\d+_\w+")


@dataclass(frozen=True)
class Command:
    """The command of a server.

    Attributes:
        argv: the command line; it does not contain the key, which is only in the environment.
        endpoint: the address and the key of the server.
        cluster: the address of a Ray cluster, without a password; "" for a server of this machine.
        job: the submission id of the job on the cluster; "" for a server of this machine.
    """

    argv: tuple[str, ...] = field(repr=False)
    endpoint: Endpoint
    cluster: str = ""
    job: str = ""


def build(spec: ServerSpec) -> Command:
    """Return the command of a spec, with a free port and a new key, unless the spec has its own.

    Raises:
        ExecutableNotFound: vLLM is not found.
        InvalidOption: a flag cannot be used here, or the working directory is gone.
        StartFailed: the port is taken, or the host cannot be used.
    """
    check_folder(spec)
    path = executable.find(spec.executable)
    _check_http(spec)
    port_text, args = flags.pop(spec.args, "--port")
    host, args = flags.pop(args, "--host")
    host = _address(host or flags.value(spec.all_args, "--host"))
    port = choose_port(spec, port_text or flags.value(spec.all_args, "--port"), host)
    endpoint = Endpoint(
        host=host,
        port=port,
        api_key=dict(spec.env).get("VLLM_API_KEY") or secrets.token_urlsafe(24),
        secure=flags.has(spec.all_args, "--ssl-certfile"),
    )
    _check_exposure(spec, host)
    argv = (path, "serve", spec.model, *args, *_quiet(spec, path), "--host", host, "--port", str(port))
    return Command(argv, endpoint)


def environment(
    environ: Mapping[str, str],
    spec: ServerSpec,
    program: str,
    endpoint: Endpoint,
    mark: str,
    tmp: Path,
    visible: str | None,
) -> dict[str, str]:
    """Return the server's environment: the kernel's environment, the spec's variables, and the server's own variables.

    Args:
        environ: the kernel's environment.
        spec: the server.
        program: the absolute path of vLLM.
        endpoint: the address and the key of the server.
        mark: the value of `MARK`.
        tmp: the private TMPDIR.
        visible: the value of CUDA_VISIBLE_DEVICES; None to leave it unchanged.
    """
    env = common_environment(environ, spec, program) | private_environment(mark, tmp)
    env["VLLM_API_KEY"] = endpoint.api_key
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def common_environment(environ: Mapping[str, str], spec: ServerSpec, program: str) -> dict[str, str]:
    """Return the part of `environment` that servers may share: the variables from the kernel, the spec and its flags."""
    env = {
        name: value
        for name, value in environ.items()
        if name not in OF_THE_KERNEL and not name.startswith(OWN) and not is_of_kubernetes(name, value)
    }
    env.update(spec.env)
    # FlashInfer runs the ninja beside vLLM, and a kernel's PATH often lacks that folder (flashinfer, pull request 3386).
    folder = Path(program).resolve().parent
    env["PATH"] = os.pathsep.join([str(folder), env.get("PATH", os.defpath)])
    # Children that Python starts with -c or -m (of multiprocessing, and vLLM's inspection of models) would import a notebook's
    # select.py or vllm/ from the working directory. A wrapper of the user may need that directory. Python 3.10 has no such
    # variable, and ignores it.
    if executable.interpreter(program):
        env.setdefault("PYTHONSAFEPATH", "1")
    # By default torch.compile's cache is in TMPDIR, which is removed after each release.
    if "TORCHINDUCTOR_CACHE_DIR" not in env and (compiled := _compile_cache()):
        env["TORCHINDUCTOR_CACHE_DIR"] = compiled
    if flags.has(spec.all_args, SLEEP):
        env.setdefault("VLLM_SERVER_DEV_MODE", "1")  # without it vLLM has no routes for sleep mode
    if flags.has(spec.all_args, LORA):
        env.setdefault("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")  # without it vLLM has no routes for adapters
    env["SPT_NOENV"] = "1"  # setproctitle would wipe the mark from /proc/PID/environ
    return env


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes sets the variable for a service that is called vllm; vLLM would take it for its own.

    See get_vllm_port in vllm/envs.py, and https://kubernetes.io/docs/concepts/services-networking/service/.
    """
    return bool(_OF_A_SERVICE.fullmatch(name)) or (name == "VLLM_PORT" and "://" in value)


def private_environment(mark: str, tmp: Path) -> dict[str, str]:
    """Return the variables that belong to one server only. Arguments as for `environment`."""
    return {"TMPDIR": str(tmp), "VLLM_RPC_BASE_PATH": str(tmp), MARK: mark}


def gpu_count(args: tuple[str, ...]) -> int:
    """Return the number of GPUs of this machine that the flags require: tensor x pipeline x data parallel."""
    local = ("--data-parallel-size-local", "-dpl")
    count = 1
    for names in (
        ("--tensor-parallel-size", "-tp"),
        ("--pipeline-parallel-size", "-pp"),
        local if flags.has(args, *local) else ("--data-parallel-size", "-dp"),
    ):
        count *= flags.whole_number(args, *names, default=1)
    return count


def memory_fraction(args: tuple[str, ...]) -> float:
    """Return the share of each GPU's memory that vLLM will use: by default 0.92 (vLLM 0.32, config/cache.py).

    It is 0.0 if the flag's value is not a number, which vLLM will report.
    """
    is_set = flags.has(args, "--gpu-memory-utilization")
    return flags.number(args, "--gpu-memory-utilization", default=0.0 if is_set else 0.92)


def shutdown_timeout(args: tuple[str, ...]) -> float:
    """Return the seconds for which the server drains its requests after SIGTERM, from its flag; by default 0."""
    return flags.number(args, "--shutdown-timeout", default=0.0)


def cleanup_timeout(environ: Mapping[str, str]) -> float:
    """Return the seconds that vLLM gives its engine and workers to clean up, if this environment says so; else 0.

    See vLLM 0.33, v1/engine/utils.py and v1/executor/multiproc_executor.py.
    """
    text = environ.get("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "").strip()
    return float(text) if flags.is_whole_number(text) else 0.0


def _quiet(spec: ServerSpec, path: str) -> tuple[str, ...]:
    """Return `QUIET` if this vLLM is known to have the flag, and the spec does not set it."""
    if flags.has(spec.all_args, QUIET[0]) or flag_table.may_select_another(spec.env):
        return ()
    table = flag_table.load(path)
    return QUIET if table and table.find(QUIET[0]) else ()


def _compile_cache() -> str | None:
    """Return the folder for compiled kernels, and create it if it is missing; None if there is no usable folder.

    It is torch's default folder, which other programs share (torch/_inductor/runtime/cache_dir_utils.py). Its files are
    executed, and any user can make a folder of this name in /tmp. So a folder of another user is not used. In that
    case, and if this user cannot write to the temporary folder, the result is a folder in the cache folder.
    """
    with suppress(OSError):
        path = f"{tempfile.gettempdir()}/torchinductor_{_user()}"
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)  # noqa: PTH102 - as os.lstat below
        status = os.lstat(path)
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
        if mine and not status.st_mode & stat.S_IWOTH and os.access(path, os.W_OK):
            return path
    with suppress(OSError):
        return str(cache.make("torchinductor"))
    return None


def _user() -> str:
    try:
        return lookups.within(lookups.USER_LIMIT, "this user", getpass.getuser)
    except (KeyError, OSError):  # a container that runs with a uid without a name
        return str(os.getuid())


def _address(host: str | None, limit: float | None = None) -> str:
    """Return the address for the value of ``--host``; None without the flag."""
    if host is not None and host.strip() in ("", "None"):  # an empty value in a --config file is read as None
        raise InvalidOption(f"--host is empty. Give an address, or leave it out for {LOOPBACK}.")
    host = host or LOOPBACK
    try:
        return addresses.resolve(host, limit)
    except OSError as error:
        raise _not_bound(host, None, error) from None


def check_folder(spec: ServerSpec) -> None:
    """Check that the working directory is there.

    Raises:
        InvalidOption: it is gone.
    """
    if not os.path.isdir(spec.cwd):  # noqa: PTH112 - Path.is_dir raises an error for a name that is too long
        raise InvalidOption(
            f"The working directory of {spec.name}, {spec.cwd}, is gone. Make it again, or start the server from another one."
        )


def check_endpoint(spec: ServerSpec, freed: Collection[int] = (), limit: float | None = None) -> None:
    """Check that a server of this spec can listen on its host and port, and may do so.

    Args:
        spec: the server.
        freed: ports that are in use now, and free when the server starts.
        limit: seconds for the look-up of the host's name; None for `lookups.HOST_LIMIT`.

    Raises:
        InvalidOption: a flag cannot be used here, or its value is no host or no port.
        StartFailed: the port is taken, or it or its host cannot be used.
    """
    _check_http(spec)
    host = _address(flags.value(spec.all_args, "--host"), limit)
    _check_exposure(spec, host)
    port = _wanted_port(spec, flags.value(spec.all_args, "--port"))
    _bind(host, None if port in freed else port)


def _check_http(spec: ServerSpec) -> None:
    for flag, meaning in (("--uds", "a Unix socket"), ("--headless", "no HTTP server")):
        if flags.has(spec.all_args, flag):
            raise InvalidOption(f"{flag} means {meaning}, and a notebook needs an HTTP port. Leave it out.")


def _check_exposure(spec: ServerSpec, host: str) -> None:
    if flags.has(spec.all_args, SLEEP) and not addresses.is_loopback(host):
        raise InvalidOption(
            f"{SLEEP} opens vLLM's development routes, which need no key, so it cannot be used with --host {host}. Leave one of them out."
        )


def choose_port(spec: ServerSpec, text: str | None, host: str) -> int:
    """Return the port of a server: the value of its flag, or that of the spec, or else a free port.

    Args:
        spec: the server.
        text: the value of the flag ``--port``; None without the flag.
        host: the address on which the port must be free.

    Raises:
        InvalidOption: the value is not a port.
        StartFailed: the port is taken, or cannot be used.
    """
    port = _wanted_port(spec, text)
    if port is None:
        try:
            return free_port.choose(host)
        except OSError as error:
            raise _not_bound(host, port, error) from None
    _bind(host, port)
    return port


def _wanted_port(spec: ServerSpec, text: str | None) -> int | None:
    """Return the port of the flag or the spec; None for any. Arguments and errors as for `choose_port`."""
    if text is not None and not flags.is_whole_number(text):
        raise InvalidOption(f"--port {text} is not a number. Leave --port out for a free one.")
    port = spec.port if text is None else int(text)
    if port is not None and not 0 < port < 65536:  # noqa: PLR2004 - TCP
        raise InvalidOption(f"{port} is not a port. Use 1 to 65535, or leave --port out for a free one.")
    return port


def _bind(host: str, port: int | None) -> None:
    """Check that the port, or any port, can be bound.

    Raises:
        StartFailed: it cannot.
    """
    try:
        free_port.bind(host, port or 0).close()
    except OSError as error:
        raise _not_bound(host, port, error) from None


def _not_bound(host: str, port: int | None, error: OSError) -> StartFailed:
    """Return the error for an address, or a port of it, on which no server can listen."""
    if error.errno == errno.EADDRINUSE and port is not None:
        holder = ports.holder(port)
        return StartFailed(
            f"Port {port} is taken{f' by {holder}' if holder else ''}",
            "Choose another --port, or leave it out for a free one",
        )
    if error.errno == errno.EACCES and port is not None:
        return StartFailed(
            f"Port {port} is for privileged users only",
            "Choose a --port from 1024 on, or leave it out for a free one",
        )
    return StartFailed(
        f"{host}:{port or 'any port'} cannot be used: {reason(error)}", "Choose another --host"
    )
