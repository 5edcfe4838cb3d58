"""A pre-trained network, opened up: weights, stages, features, surgery."""
