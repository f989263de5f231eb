"""The demo: a local page where a model answers, token by token, beside the NPU that its trace is simulated on."""
