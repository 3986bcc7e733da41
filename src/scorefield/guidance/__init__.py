"""Draws given some of a row's numbers, or given where they may lie, from any trained denoiser."""
