"""Linux: processes, control groups, limits, network addresses, ports, containers, deadlines."""
