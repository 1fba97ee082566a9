"""The doctor: what holds the GPUs, what was left behind, what is wrong on this machine, and what helps.

It reads the ledger, the driver and /proc, needs no Jupyter, and copes with everything missing. `survey` looks and
changes nothing; `reap` ends what `unowned` says nobody owns.
"""
