"""How fast the project is: beside its peers, and beside its former self."""
