"""What the system tests stand on: processes with deadlines, a cluster, comparisons. Standard library only."""
