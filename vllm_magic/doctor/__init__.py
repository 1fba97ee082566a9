"""The doctor: what holds the GPUs, what was left behind, what is wrong on this machine, and what helps.

It reads the ledger, the driver and /proc, needs no Jupyter, and works where any of them is missing. `survey` reads and
changes nothing; `reap` ends the processes that nobody owns, as `unowned` decides.
"""
