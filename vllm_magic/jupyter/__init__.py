"""The front end in a notebook: the magics, completion, the display of results, and the panel."""
