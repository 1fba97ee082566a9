"""Failures of this machine: memory, disk, shared memory, and limits of processes and files."""

from __future__ import annotations

from vllm_magic.engine.failures import machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

_LARGER_SHM = "Make it larger (docker run --shm-size=8g; in Kubernetes an emptyDir with medium: Memory), or free some of it"

SIGNS = (
    Sign(  # NCCL, src/misc/shmutils.cc
        r"Error while creating shared memory segment (\S{1,200}) \(size (\d{1,18})\), error: No space left on device",
        machine_hints.shared_memory_full,
        _LARGER_SHM,
    ),
    Sign(  # Python's multiprocessing, torch
        r"(?:No space left on device|unable to (?:write|mmap|open|resize)).{0,200}/dev/shm|"
        r"/dev/shm.{0,200}(?:No space left on device)|unable to (?:mmap|allocate|write) .{0,100}shared memory",
        machine_hints.shared_memory_full,
        _LARGER_SHM,
    ),
    Sign(  # torch/utils/data/_utils/signal_handling.py
        r"killed by signal: Bus error\. It is possible that dataloader's workers are out of shared memory",
        machine_hints.shared_memory_full,
        _LARGER_SHM,
    ),
    Sign(
        r"\[Errno 28\] No space left on device(?:: '(.{1,500}?)')?|No space left on device \(os error 28\)",
        machine_hints.disk_full,
        "Free some of it, or point HF_HOME, VLLM_CACHE_ROOT and TMPDIR to a larger disk",
    ),
    Sign(
        r"Disk quota exceeded(?: \(os error 122\))?(?:: '(.{1,500}?)')?",
        "The disk quota of this user is used up",
        "Free some of it, or point HF_HOME, VLLM_CACHE_ROOT and TMPDIR to another disk",
    ),
    Sign(
        r"Read-only file system(?: \(os error 30\))?(?:: '(.{1,500}?)')?",
        machine_hints.read_only,
        "Point HF_HOME, VLLM_CACHE_ROOT, TRITON_CACHE_DIR and TMPDIR to a folder that can be written",
    ),
    Sign(
        r"PermissionError: \[Errno 13\] Permission denied: '(.{1,500}?)'",
        "{0} may not be read or written by this user",
        machine_hints.no_permission,
    ),
    Sign(
        r"BlockingIOError: \[Errno 11\] Resource temporarily unavailable|RuntimeError: can't start new thread|"
        r"Thread creation failed: Resource temporarily unavailable|pthread_create failed.{0,100}Resource temporarily|"
        r"pthread_create\(\) failed.{0,40}11",
        machine_hints.too_many_processes,
        "Raise the limit (ulimit -u; docker run --pids-limit=-1), or end other processes of this user",
    ),
    Sign(
        r"\[Errno 24\] Too many open files|Too many open files \(os error 24\)|Too many open files \(src/",
        machine_hints.too_many_files,
        "Raise the limit before the kernel starts: ulimit -n 65536",
    ),
    Sign(
        r"\[Errno 12\] Cannot allocate memory|^MemoryError\b|std::bad_alloc|"
        r"DefaultCPUAllocator: (?:can't allocate memory|not enough memory)",
        machine_hints.no_memory,
        "Free some of it, or choose a smaller model; --cpu-offload-gb takes memory too",
    ),
    Sign(  # torch, c10/core/CPUAllocator.cpp and aten/src/ATen/cuda/CachingHostAllocator.cpp
        r"(?:cudaHostAlloc|cudaHostRegister|pin_memory|mlock).{0,200}(?:out of memory|RLIMIT_MEMLOCK|Cannot allocate memory)",
        "No memory can be locked for the GPU to read",
        "Raise the limit (ulimit -l unlimited; docker run --ulimit memlock=-1), or lower --cpu-offload-gb",
    ),
    Sign(  # vllm/envs.py, get_vllm_port
        r"VLLM_PORT '(.{1,200}?)' appears to be a URI",
        "The environment variable VLLM_PORT is {0}: Kubernetes sets it for a service that is called vllm",
        "Rename the service, set enableServiceLinks: false in the pod, or remove the variable (%env VLLM_PORT=)",
    ),
    Sign(  # UCX, which comes with NIXL
        r"FATAL: (\w{1,40}) library was compiled with (\w{1,20}) but CPU does not support it",
        "This processor has no {1}, for which the library {0} was built",
        "Give a virtual machine the processor of its host (type host); or uninstall the package that needs {0}, usually nixl",
    ),
    Sign(  # Python's faulthandler, absl, torch
        r"Fatal Python error: (?:Segmentation fault|Aborted|Bus error|Illegal instruction)|\*\*\* SIG(?:SEGV|ABRT|BUS|ILL) received|"
        r"Segfault encountered",
        machine_hints.crashed,
        machine_hints.check_packages,
        general=True,
    ),
    Sign(r"No such file or directory: '(.{0,500}?)'", "There is no file {0}", "Check the path", general=True),
    Sign(  # Python's pwd, which torch asks for the user's name
        r"getpwuid\(\): uid not found: (\d{1,10})",
        "The user {0} has no name in this container, and torch asks for it",
        "Add --env USER=vllm --env HOME=/tmp, or give the user a line in /etc/passwd",
    ),
    Sign(  # the dynamic loader
        r"(?:ImportError|OSError): (\S{1,300}): cannot allocate memory in static TLS block",
        "The library {0} was loaded too late",
        "Load it first: --env LD_PRELOAD={0}",
    ),
    Sign(  # ZeroMQ
        r"ipc path .{1,300} is longer than (\d{1,4}) characters",
        "The path of a socket between vLLM's processes is longer than {0} characters",
        "Name a short folder: --env VLLM_RPC_BASE_PATH=/tmp, and TMPDIR likewise",
    ),
    Sign(  # ZeroMQ
        r"ZMQError: Address already in use",
        "A port is taken, through which vLLM's processes talk to each other",
        "Start it again; if VLLM_PORT or a port of --data-parallel-rpc-port is set, change that",
        transient=True,
    ),
    Sign(
        r"unable to mmap \d{1,18} bytes from file <(.{1,300}?)>: Cannot allocate memory|mmap failed: Cannot allocate memory",
        "The machine's memory or address space does not suffice to map the weights",
        "Raise the limit (ulimit -v unlimited, the container's memory), or choose a smaller model",
    ),
    Sign(
        r"\[Errno (?:5|107|116|121)\] \w.{1,200}|(?:Input/output error|Stale file handle) \(os error \d{1,3}\)",
        "A disk or a network file system has failed",
        "See dmesg, mount it again, or copy the model to a disk of this machine",
    ),
    Sign(
        r"\[Errno 1\] Operation not permitted",
        "The system does not allow this user or container an operation (EPERM)",
        "Start the container with --ipc=host and --security-opt seccomp=unconfined, or with the capability that it needs",
        general=True,
    ),
    Sign(
        r"Error\b.{0,200}Permission denied(?: \(os error 13\))?(?:: '?(.{1,300}?)'?$)?",
        "A file or folder may not be read or written by this user: {0}",
        "Change its owner or mode, or point HF_HOME, VLLM_CACHE_ROOT and TMPDIR to folders of this user",
        general=True,
    ),
    Sign(  # glibc, and shells
        r"^(?:free\(\): invalid|double free or corruption|malloc\(\): |corrupted (?:size|double-linked)|munmap_chunk\(\)|"
        r"realloc\(\): invalid)|\b(?:Segmentation fault|Bus error|Illegal instruction|Aborted) +\(core dumped\)",
        machine_hints.crashed,
        machine_hints.check_packages,
        general=True,
    ),
    Sign(  # libnuma, in containers
        r"\bnuma_migrate_pages failed\b|\b(?:set_mempolicy|mbind|setting membind): Operation not permitted",
        "A container may not choose the memory node (NUMA) of its processes",
        "Leave --numa-bind out if it is given; else start the container with --cap-add SYS_NICE --security-opt seccomp=unconfined",
        general=True,
    ),
)
