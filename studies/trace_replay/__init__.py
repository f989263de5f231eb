"""A trace measured on a GPU or a CPU, replayed on the NPU model: both step times over the same steps."""
