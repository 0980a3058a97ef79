"""A whole cluster on this machine: a broker of either engine, and the processes of a system."""
