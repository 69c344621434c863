"""Tensor functions that know no model: attention statistics, partition, sparse attention."""
