"""What a net is asked: input, target, loss, and the baselines that every error is shown beside."""
