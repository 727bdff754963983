"""The shelf: stored studies as things to list, remove, copy, pack and unpack; nothing here trains or needs PyTorch."""
