"""Many runs: a study is planned once, run by any number of processes on any number of nodes, and merged (batch.md)."""
