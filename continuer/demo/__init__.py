"""The demonstration: a whole cluster on one machine, a fault, and the account of it."""
