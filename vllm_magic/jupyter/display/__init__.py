"""How results, progress and answers look in a notebook and in a terminal."""
