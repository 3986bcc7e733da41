"""The variational bound of the walk that samples: its steps, its terms, its sum."""
