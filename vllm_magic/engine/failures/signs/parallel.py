"""Failures of several GPUs, processes or machines together: NCCL, Gloo, torch.distributed, sizes that do not divide."""

from __future__ import annotations

from vllm_magic.engine.failures import hints, machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

SIGNS = (
    Sign(  # vllm/config/parallel.py
        r"World size \((\d{1,9})\) is larger than the number of available GPUs \((\d{1,9})\)",
        "{0} GPUs are asked for, and this machine shows {1}",
        machine_hints.fewer_gpus,
    ),
    Sign(  # torch, TCPStore
        r"The server socket has failed to (?:listen on|bind to) any local network address\. (?:port: (\d{1,5}), )?"
        r".{0,200}(?:EADDRINUSE|address already in use)",
        machine_hints.store_port_taken,
        machine_hints.store_port,
    ),
    Sign(  # NCCL, src/misc/socket.cc and bootstrap.cc
        r"Bootstrap : no socket interface found|NCCL_SOCKET_IFNAME",
        "NCCL finds no network interface that it may use",
        "Set the interface: --env NCCL_SOCKET_IFNAME=lo on one machine, or the name that ip addr shows",
    ),
    Sign(
        r"Watchdog caught collective operation timeout",
        "The GPUs waited for each other without an end: one of the processes hangs or has ended",
        "See the lines of the other workers; --env NCCL_P2P_DISABLE=1 helps where the machine's IOMMU breaks peer access",
    ),
    Sign(
        r"ncclUnhandledCudaError|NCCL error.{0,300}unhandled cuda error",
        "NCCL met an error of CUDA",
        "Add --env NCCL_DEBUG=INFO to see which one; often no memory is left (lower --gpu-memory-utilization), or peer "
        "access fails (--env NCCL_P2P_DISABLE=1)",
    ),
    Sign(
        r"NCCL WARN Call to ibv_reg_\w{1,40} failed with error Cannot allocate memory",
        "NCCL may not lock as much memory as InfiniBand needs",
        "Raise the limit (docker run --ulimit memlock=-1), and leave NCCL_BUFFSIZE out if it is set",
    ),
    Sign(
        r"NCCL error.{0,300}(?:unhandled system error|ncclSystemError)|ncclSystemError: .{0,300}|NCCL_ERROR_SYSTEM_ERROR",
        "NCCL met an error of the system",
        "Add --env NCCL_DEBUG=INFO to see which one; often /dev/shm is too small (docker run --shm-size=8g)",
    ),
    Sign(
        r"ncclInternalError|NCCL error.{0,300}internal error",
        "NCCL met an error of its own",
        "Add --env NCCL_DEBUG=INFO to see which one; all GPUs of one server should be alike and of one driver",
    ),
    Sign(  # Gloo
        r"Gloo connectFullMesh failed|\[enforce fail at .{0,200}gloo.{0,300}|nable to (?:find|resolve) .{0,40}address.{0,100}",
        "The processes do not reach each other over the network of this machine",
        "On one machine add --env GLOO_SOCKET_IFNAME=lo --env VLLM_HOST_IP=127.0.0.1, on several the name of the interface and the "
        "address that the others reach; the machine's name must resolve (/etc/hosts)",
    ),
    Sign(  # vllm/model_executor/layers/vocab_parallel_embedding.py, linear.py
        r"(\d{1,9}) is not divisible by (\d{1,9})",
        "{0} cannot be divided by {1}, which the model's layers need for so many GPUs",
        "Choose another --tensor-parallel-size; --pipeline-parallel-size divides by layers",
    ),
    Sign(  # vllm/model_executor/layers/quantization, marlin_utils.py
        r"= (\d{1,9}) is not divisible by\s{1,9}(?:weight quantization )?(?:min_thread|block|group)_\w{1,9} = (\d{1,9})",
        "The quantized weights cannot be divided among so many GPUs ({0} by {1})",
        "Lower --tensor-parallel-size; a model of experts may do with --enable-expert-parallel; or choose another quantization",
    ),
    Sign(  # vllm/model_executor/layers/quantization/auto_awq.py, csrc/moe/moe_wna16.cu
        r"put size is not aligned with the quantized weight shape|size_k must (?:be )?divisible by BLOCK_SIZE_K",
        "The quantized weights cannot be divided among so many GPUs",
        "Lower --tensor-parallel-size; a model of experts may do with --enable-expert-parallel; or choose another quantization",
    ),
    Sign(  # csrc/moe/marlin_moe_wna16, csrc/quantization
        r"\b((?:size|prob)_[kmn]) = (\d{1,9}),? is not divisible by (?!\d)(.{1,100})",
        "The quantized weights cannot be divided among so many GPUs ({0} = {1} by {2})",
        "Lower --tensor-parallel-size; a model of experts may do with --enable-expert-parallel; or choose another quantization",
    ),
    Sign(
        r"Pipeline parallelism is not supported for this model",
        "This model cannot be divided by layers",
        "Leave --pipeline-parallel-size out, and use --tensor-parallel-size",
    ),
    Sign(
        r"NCCL error.{0,300}invalid usage|ncclInvalidUsage|Duplicate GPU detected",
        "NCCL was asked for what it does not do: mostly two processes got the same GPU",
        "Check CUDA_VISIBLE_DEVICES and --gpus for a GPU that is named twice; --env NCCL_DEBUG=WARN shows more",
    ),
    Sign(  # vllm/config/model.py
        r"Total number of attention heads \((\d{1,9})\) must be divisible by tensor parallel size \((\d{1,9})\)",
        "The model's {0} attention heads cannot be divided among {1} GPUs",
        hints.parallel_sizes,
    ),
    Sign(  # vllm/v1/executor/ray_utils.py, ray_executor.py
        r"Current node has no GPU available|Ray does not allocate any GPUs on the driver node",
        "Ray has no GPU on the machine where vLLM was started",
        "Start it on a machine whose GPUs Ray has free (ray status), and set VLLM_HOST_IP to that machine's address in Ray",
    ),
    Sign(  # vllm/v1/executor/ray_utils.py
        r"Cannot provide a placement group |No available node types can fulfill resource request|"
        r"number of required \w{1,10}s exceeds the total number of available",
        "Ray's cluster does not have so many free GPUs",
        "See what is free (ray status), lower --tensor-parallel-size or --pipeline-parallel-size, or add machines to the cluster",
    ),
    Sign(  # torch, TCPStore
        r"The client socket has timed out after (\d{1,12})ms while trying to connect to \((\S{1,200}), (\d{1,5})\)",
        "A process of vLLM did not reach another at {1}, port {2}",
        "On one machine add --env VLLM_HOST_IP=127.0.0.1; on several open that port, and set VLLM_HOST_IP to an address that they reach",
    ),
    Sign(  # torch, TCPStore
        r"Timed out after (\d{1,9}) seconds waiting for clients\. (\d{1,6})/(\d{1,6}) clients joined",
        "Only {1} of {2} processes have come together",
        "See why the others did not start: each machine needs the same vLLM and arguments, its own --node-rank, and a way to "
        "the first one's address and port",
    ),
    Sign(  # vllm/v1/executor/ray_executor.py
        r"Every node should have a unique IP address",
        "Several machines of Ray's cluster have the same address",
        "Set VLLM_HOST_IP on each machine to its own address, before ray start",
    ),
    Sign(
        r"Version mismatch: The cluster was started with",
        "Ray's cluster runs another version of Ray or Python than this vLLM",
        "Use the same versions on all machines",
    ),
    Sign(
        r"Could not find any running Ray instance|Failed to (?:connect|get).{0,60}\bGCS\b|\bGCS\b.{0,100}(?:timed out|unavailable)",
        "There is no Ray cluster at this address",
        "Start it (ray start --head), and check RAY_ADDRESS",
    ),
    Sign(
        r"undefined symbol: (nccl\w{1,60})",
        "The NCCL that is found first is too old: it has no {0}",
        "Take other copies of libnccl out of LD_LIBRARY_PATH and VLLM_NCCL_SO_PATH, and install nvidia-nccl in the version that torch wants",
    ),
    Sign(
        r"gloo.{0,200}Connection (?:closed|reset) by peer|ncclRemoteError|remote process exited or there was a network error|"
        r"Failed to recv, got 0 bytes",
        "Another process of this server has ended, and its connections with it",
        "The error of that process stands above (%vllm logs); on several machines, see the log of each",
        general=True,
    ),
    Sign(
        r"NCCL (?:WARN|error).{0,40}Cuda failure (?:\d{1,4} )?'(.{1,100}?)'",
        "NCCL met an error of CUDA: {0}",
        "Lower --gpu-memory-utilization if memory is short; else --env NCCL_P2P_DISABLE=1 or NCCL_CUMEM_ENABLE=0",
        general=True,
    ),
    Sign(  # oneCCL and Level Zero
        r"\boneCCL\b.{0,100}EXCEPTION|ze error at (\w{1,60})|\bZE_RESULT_ERROR_\w{1,60}",
        "The Intel GPUs cannot share memory with each other",
        "Add --env CCL_TOPO_P2P_ACCESS=0, else --env CCL_ENABLE_SYCL_KERNELS=0 or CCL_ZE_IPC_EXCHANGE=sockets",
    ),
    Sign(
        r"NCCL error|DistBackendError: (.{1,200})|ncclUnhandled\w{1,40}",
        "The GPUs cannot talk to each other (NCCL)",
        "Add --env NCCL_DEBUG=INFO to see why; --env NCCL_P2P_DISABLE=1 and --disable-custom-all-reduce help where peer access fails",
        general=True,
    ),
    Sign(
        r"ray\.exceptions\.(\w{1,60}): ?(.{0,200})",
        "Ray has failed ({0}): {1}",
        "See ray status and the logs in /tmp/ray/session_latest/logs; on one machine --distributed-executor-backend mp does without Ray",
        general=True,
    ),
)
