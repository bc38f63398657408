"""What is known about training before it starts: stability boundaries and the effects of label noise."""
