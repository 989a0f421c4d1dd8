"""plusx: residual learning from the paper to production."""
