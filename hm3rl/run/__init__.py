"""One search, from configuration to result: build, job, finished run, pick, preflight, init."""
