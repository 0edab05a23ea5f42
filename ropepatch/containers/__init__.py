"""Bytes: header scan and header rewrite of each file format. Nothing in here knows RoPE."""
