module stellar-memory.dev/cluster/pause

go 1.25.0
