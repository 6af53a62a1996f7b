"""Attention of the two streams: batch layout, fusion, processors, LoRA."""
