"""One slide, from pixels to a prediction."""
