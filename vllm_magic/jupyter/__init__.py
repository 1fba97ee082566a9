"""What a person touches: the magics, and how results look."""
