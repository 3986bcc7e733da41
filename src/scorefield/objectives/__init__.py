"""Objectives: times, criterion, weight, and the presets made of them."""
