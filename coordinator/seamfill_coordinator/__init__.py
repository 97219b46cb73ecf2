"""The coordinator: a replicated lease machine behind Raft, HTTP and an operator's command line."""
