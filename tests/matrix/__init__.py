"""The fault matrix: ways to die x engines x phases, with vllm_magic and with what people use without it.

::

    python -m matrix.stage DEATH METHOD CELLS RESULT      one death; a process of its own, as every death is

A **host** (a kernel, a notebook under nbconvert, a terminal IPython, a plain Python) holds many servers, one for
each **cell**: an engine in a phase. They are stand-ins, started side by side; then the host dies one **death**,
and each cell is judged on its own. The **stage** starts the host, watches from outside, and judges. The
**method** is how the host starts its servers, and what it does about them at its end.
"""
