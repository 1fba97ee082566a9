"""What ``%vllm help`` says. Completion reads it too, so what is told here is what can be completed."""

HELP = """\
%vllm                        the servers of this kernel
%vllm panel                  see and steer the servers, while cells run as well
%vllm start MODEL [flags]    serve a model; flags of `vllm serve` go to vLLM as they stand
      --name NAME            what to call it (else the last part of the model's name)
      --gpus 0,1 | auto      GPUs by index or UUID, or the freest that are enough (else vLLM chooses)
      --port N               TCP port (else a free one)
      --env NAME=VALUE       environment variable for the server; may be repeated
      --executable PATH      the vllm to run (else $VLLM_MAGIC_EXECUTABLE, vllm beside this Python, vllm on $PATH)
      --profile NAME         the words of this profile, before those of this line
      --force                start it also where the GPUs have too little free memory, or vLLM has no such flag
      --cluster ADDRESS      on a Ray cluster (http://HEAD:8265, or auto for $RAY_ADDRESS); see docs/cluster.md
      --keep 10m             outlive this kernel for so long, for another one to attach (else it ends with the kernel)
      --ttl 30m              release it when it had no request for that long
      --no-wait              return at once
      --timeout TIME         give up, and release it, when it is not ready by then
%vllm attach [NAME]          take over a server that was kept
%vllm stop [NAME | --all]    end it, and prove that its VRAM is back
      --drain TIME           let requests finish first
      --grace TIME           from SIGTERM to SIGKILL
%vllm restart [NAME]         stop it and start it again
%vllm switch MODEL [flags]   start it or wake it up, with the others out of its way: asleep, else stopped; words as for start
%vllm spare status           what has imported vLLM ahead of the next start, which takes far less time then
%vllm spare on               have one from now on
%vllm spare off              end it, and have none
%vllm spare auto             have one once a server is ready, where memory is plenty; as it is at first
%vllm sleep [NAME]           give its VRAM back but keep its processes; it was started with --enable-sleep-mode
      --level 2              throw the weights away (else they go to the machine's memory)
%vllm wake [NAME]            wake it up
%vllm status [NAME]          the same as %vllm, for one
%vllm logs [NAME] [-n N]     the last lines of its log, also after its end
%vllm fit MODEL [flags]      whether it would fit, and what it needs: weights, KV cache; the words are those of start
%vllm metrics [NAME]         requests, tokens a second, KV cache, times to the first token and between tokens
%vllm plot [NAME]            its life as a figure: VRAM, tokens a second, requests; also after its end
%vllm lora list              the LoRA adapters of a server that was started with --enable-lora
%vllm lora load NAME FOLDER  load one; name it as the model in a request
%vllm lora unload NAME       unload it
      --server NAME          of which server, where there are several
%vllm bench [NAME] [flags]   measure it with `vllm bench serve`, which takes the flags
%vllm pull MODEL             download it ahead of its start; what is here whole is not downloaded again
      --revision REVISION    a branch, tag or commit (else the main one)
%vllm models                 what is in the Hugging Face cache: size, served or not
%vllm gpu                    who holds how much of which GPU
%vllm cluster [ADDRESS]      the nodes of a Ray cluster, and what runs there or waits for room
%vllm doctor                 what is wrong on this machine, and what helps
%vllm reap                   release what dead kernels left
      --pid PID [--yes]      show, and with --yes end, a vLLM process that nobody owns
%vllm help                   this
%%vllm [NAME]                say the cell below to a model; its answer comes as Markdown, Interrupt ends it
      --system TEXT          the system message
      --temperature T        0 for the likeliest words each time
      --max-tokens N         the most to answer
      --as VARIABLE          keep the answer in a variable
      --json SCHEMA          an answer that fits a JSON schema: JSON in single quotes, or a variable with a
                             dict or a pydantic model class; --as keeps it parsed
      --history, --new       go on with the conversation with this server; begin a new one

NAME can be left out where there is only one. {name} and $name put in variables of the notebook ($$ is a
dollar sign), but not in the cell below %%vllm, which is sent as it stands. TIME is 90, 90s, 30m or 1h30m.
`server = %vllm start ...` keeps the server: server.base_url, server.api_key, server.stop().
%config VllmMagics shows what can be set for each start: executable, flags, gpus, host, and the grace of each stop;
and whether there is a spare.
A profile is a table of ~/.config/vllm-magic/profiles.toml, of lines such as model = "ORG/MODEL", gpus = "0,1", ttl = "30m",
env = { NAME = "VALUE" }, flags = "--max-model-len 32768"; %vllm start --profile NAME uses it."""
