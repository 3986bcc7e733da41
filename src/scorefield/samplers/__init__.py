"""Samplers: walks over noise levels, made of a grid, a predictor that goes down and a corrector that stays."""
